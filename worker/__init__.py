"""The SDK for agent authors, and the contract that daemon, workers and clients share."""
