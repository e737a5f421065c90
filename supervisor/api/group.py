"""Makes what counts: statistics, costs, and the figures kept over time."""

from dataclasses import dataclass

from corral.supervisor.agents.group import AgentsGroup
from corral.supervisor.config.spec.spec import kind_of_group
from corral.supervisor.models.group import ModelsGroup
from corral.supervisor.records.group import RecordsGroup
from corral.supervisor.tasks.group import TasksGroup
from corral.supervisor.tenants.group import TenantsGroup
from corral.supervisor.workers.group import WorkersGroup

from .metrics.collector import Collector
from .metrics.statistics import Statistics
from .metrics.view import MetricsView
from .reports.costs import CostSums
from .table.quotas import Quotas


@dataclass(frozen=True, slots=True)
class FiguresGroup:
    """Holds what other groups use of the figures of one daemon."""

    statistics: Statistics
    costs: CostSums
    collector: Collector
    metrics: MetricsView
    quotas: Quotas


def make_figures(
    records: RecordsGroup,
    workers: WorkersGroup,
    tenants: TenantsGroup,
    agents: AgentsGroup,
    tasks: TasksGroup,
    models: ModelsGroup,
) -> FiguresGroup:
    """Makes them; they count from now on."""
    running, store = agents.agents, records.store

    def kind_of(name: str) -> str | None:
        found = running.groups.by_name.get(name)
        return None if found is None else kind_of_group(found)

    statistics = Statistics(workers.shared, running, workers.limits, kind_of, tasks.call_rates, tasks.budgets.used)
    costs = CostSums(store, gathered=records.gathered)
    tasks.routing.rate_by(statistics.recent_success_rate)
    tasks.accounting.subscribe(statistics.used)
    tasks.call_records.subscribe(statistics.called)
    tasks.writer.subscribe(statistics)
    tasks.writer.subscribe(costs)
    models.desk.subscribe(statistics.used)
    models.desk.subscribe(costs.used)
    models.measured.subscribe(costs.ended)
    collector = Collector(statistics, workers.limits, running, tasks.tasks, store, records.state_dir)
    records.in_force.subscribe(lambda _: collector.reloaded())
    quotas = Quotas(running, tasks, agents.pool, tenants.tenants, tenants.task_limits, tenants.measured)
    return FiguresGroup(statistics, costs, collector, MetricsView(collector, statistics, running), quotas)
