from corral.worker import Agent

agent = Agent("hello")


@agent.task
def run(task):
    return f"hello, {task.objective}"


agent.run()
