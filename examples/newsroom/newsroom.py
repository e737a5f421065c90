"""Reporters, checkers and an editor: what each of them does is the first word of the objective."""

from corral.worker import Agent

agent = Agent("newsroom")


@agent.task
async def run(task):
    word, _, rest = task.objective.partition(" ")
    if word == "gather":
        return f"a story about {task.input}"
    if word == "check":
        return {"stories": len(task.input), "by": task.agent}
    if word == "edit":
        return f"{rest}: " + "; ".join(task.input)
    if word == "explain":
        return "there was nothing to report"
    if word == "answer":  # the lead of a team is told who is in it
        reporter = task.context["team"]["members"][0]["name"]
        answers = [await task.delegate(reporter, "gather", input=each) for each in task.input]
        return [answer.output for answer in answers]
    return None


agent.run()
