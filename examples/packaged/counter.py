from corral.worker import Agent

agent = Agent("counter")


@agent.task
def run(task):
    return {"words": len(task.objective.split())}


agent.run()
