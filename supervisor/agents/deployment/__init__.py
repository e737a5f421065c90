"""Installs packages and deploys them: a whole new version beside the old one, and then a rolling change to it.

Guarantees that nothing which serves is changed before a version is installed whole and has proved itself, that each
version keeps the exact dependencies it was resolved to, and that what a kill -9 leaves behind is removed at the next start.
Environments are shared by all versions with the same lock. The room knows neither the format of a package (`packages`
does) nor how traffic moves (`rollout` does).

Begin with `deployments`; `installer` is one installation, with the folder of virtual environments.
"""
