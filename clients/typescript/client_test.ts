// Uses the client against a real daemon: node client_test.ts BASE_URL FOLDER_OF_AGENT, with CORRAL_TOKEN in the environment.

import { Corral, CorralError } from "./client.ts";

declare const process: { argv: string[]; env: Record<string, string | undefined> };

function check(holds: boolean, text: string): asserts holds {
  if (!holds) throw new Error(`it does not hold: ${text}`);
}

/** Returns the CorralError with which a promise is rejected. */
async function refusal(promise: Promise<unknown>): Promise<CorralError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  check(error instanceof CorralError, "it is refused");
  return error;
}

const [baseUrl, folder] = process.argv.slice(2);
const token = process.env.CORRAL_TOKEN;
check(baseUrl !== undefined && folder !== undefined && token !== undefined, "all arguments are given");
const corral = new Corral({ baseUrl, token });

await corral.addAgent({
  name: "typed",
  spec: { entrypoint: "scaled_agent:agent", process: { working_directory: folder } },
});
const status = await corral.status({ names: ["typed"] });
check(status.agents[0]?.name === "typed", "the agent is listed");

const taken = await refusal(corral.addAgent({ name: "typed", spec: { command: ["true"] } }));
check(taken.name === "Conflict" && taken.status === 409, "the name is taken");
const missing = await refusal(corral.showAgent({ name: "no such/agent" }));
check(missing.name === "NotFound" && missing.status === 404, "there is no such agent");
const unnamed = await refusal(new Corral({ baseUrl }).status());
check(unnamed.status === 401, "a token is needed");

const task = await corral.executeTask({ agent: "typed", objective: "once" });
check(task.state === "succeeded" && task.output === "once", "the task has succeeded");

const keyed = { agent: "typed", objective: "keyed" };
const first = await corral.submitTask(keyed, { idempotencyKey: "one" });
const second = await corral.submitTask(keyed, { idempotencyKey: "one" });
check(first.id === second.id, "the key names one task");

const names: string[] = [];
for await (const { event } of corral.executeTaskStream({ agent: "typed", objective: "streamed" })) {
  names.push(event);
}
check(names.at(-1) === "result", "a stream ends with the result");

const types: string[] = [];
let last: string | undefined;
for await (const { id, event } of corral.events({ since: 0 })) {
  if (id !== undefined) last = id;
  types.push(event);
  if (types.length === 3) break; // which ends the request
}
check(last !== undefined, "events have ids");
for await (const { id } of corral.events({}, { lastEventId: last })) {
  check(id !== undefined && Number(id) > Number(last), "a stream continues after the last event");
  break;
}

const removed = await corral.removeAgent({ name: "typed" });
check(JSON.stringify(removed).includes("typed"), "the agent is removed");
console.log("ok");
