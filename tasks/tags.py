"""How a flow run is found in the Prefect UI: tags for its query set and its models."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from configs.schema import Config, short_name
from tasks.logs import show_lines


def tag_flow_run(config: Config) -> None:
    """Add the config's tags to those that the flow run has already; have our lines in its log."""
    show_lines()
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run = context.flow_run
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, tags={*run.tags, *tags_of(config)})


def tags_of(config: Config) -> list[str]:
    """`query-set:NAME`, and `encoder:NAME` and `reranker:NAME` if the run has one."""
    encoder, reranker = config.documents.encoder, config.rerank
    tags = [f"query-set:{config.queries.query_set}"]
    if encoder is not None:
        tags.append(f"encoder:{short_name(encoder.model)}")
    if reranker is not None:
        tags.append(f"reranker:{short_name(reranker.model)}")
    return tags
