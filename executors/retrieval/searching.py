"""From a question to its passages: the nearest ones, those that also differ from each other, or those that a second model puts first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mloc.core.language.inference_spec import PASSAGES, Search
from mloc.core.language.model_spec import HuggingFaceSource, Model
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context
from mloc.executors.pooling.encoder import Encoder, encoder_spec
from mloc.executors.pooling.rerank_executor import ranked
from mloc.executors.pooling.reranker import Reranker, load_reranker
from mloc.executors.retrieval.stores import Hit, Query, Store

MORE = 5  # times top_k candidates where one of several orders is still to be made


class Found(Struct, frozen=True):
    """The passages of one question as a result shows them, best first, and the tokens that it took to find them."""

    passages: list[dict[str, Any]]
    tokens: int


def find(questions: Sequence[str], store: Store, encoder: Encoder, search: Search, reranker: Reranker | None) -> list[Found]:
    """The passages of each question."""
    if not questions:
        return []
    top = search.top_k or PASSAGES
    chooses = search.type == "mmr" or reranker is not None
    encoded = encoder.encode(questions, "query", True)
    query = Query(encoded.vectors, max(top, search.fetch_k or top * MORE) if chooses else top, search.filter, search.type == "mmr")
    made: list[Found] = []
    for question, vector, tokens, hits in zip(questions, encoded.vectors, encoded.tokens, store.search(query), strict=True):
        least = search.score_threshold
        near = [hit for hit in hits if least is None or reranker is not None or hit.score >= least]
        if search.type == "mmr":
            near = _varied(vector, near, len(near) if reranker is not None else top, search.lambda_mult)
        passages = [_shown(hit) for hit in near]
        if reranker is not None and passages:
            passages, more = ranked(question, passages, reranker, top, least)
            tokens += more
        made.append(Found(passages[:top], tokens))
    return made


def reranker_of(spec: TaskSpec, search: Search, context: Context) -> Reranker | None:
    """The model that sorts passages again, where the task names one. Raises ExecutorError."""
    if search.rerank is None:
        return None
    return load_reranker(replace(encoder_spec(spec), model=Model(source=HuggingFaceSource(search.rerank))), context)


def _varied(vector: Any, hits: list[Hit], count: int, weight: float) -> list[Hit]:
    """Maximal marginal relevance (Carbonell and Goldstein 1998): each next passage is near the question and far from those before."""
    import numpy
    from langchain_core.vectorstores.utils import maximal_marginal_relevance

    if not hits:
        return []
    chosen = maximal_marginal_relevance(numpy.asarray(vector), [numpy.asarray(hit.vector) for hit in hits], lambda_mult=weight, k=count)
    return [hits[number] for number in chosen]


def _shown(hit: Hit) -> dict[str, Any]:
    passage = hit.passage
    shown = {"text": passage.text, "source": passage.source, "position": passage.position, "score": round(hit.score, 6)}
    return {**shown, "metadata": passage.metadata} if passage.metadata else shown
