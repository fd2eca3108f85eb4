"""Config of `serve`: the endpoint, its search page, and the online test that runs at it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from rrad_ray.config.base import (
    CHECKED,
    NO_BOOL,
    Backend,
    Count,
    CountOrNone,
    NotNegative,
    Number,
    Positive,
    Precision,
    Range,
    ResourceSpec,
    Uri,
    check_backend,
    range_of,
    require,
)
from rrad_ray.config.chunks import ChunksConfig
from rrad_ray.config.online import DAY_S, ExperimentDesign, check_design
from rrad_ray.languages import Language

WINNER = "winner"  # the model of `input`
LOOPBACK = ("localhost", "::1")  # hosts that no other machine reaches, beside 127.*
ORIGIN = re.compile(r"\*|https?://[a-z0-9.:\[\]-]+")  # as browsers send it: lower case, punycode
IDENTITY = "identity"  # the model that leaves the documents in the order of the request


@dataclass(frozen=True, config=CHECKED)
class OnlineConfig:
    """An online test at the endpoint. Exposures and clicks land below `events`; `experiment` reads them."""

    events: Uri = ""
    """Where exposures and clicks are stored, local or `s3://`; empty: no test runs and nothing is written."""
    name: str = ""
    """The test's name, as in `experiment`."""
    variants: dict[str, Number] = Field(default_factory=dict)
    """Variants with their weights, as in `experiment`: each a name in `models`, `winner` or `identity`."""
    design: Literal["ab", "interleave"] = "ab"
    """The test's design, as in `experiment`."""
    journal: Uri = ""
    """A folder on the replica's own disk that only its user may write to; empty: one for `events` below
    XDG_STATE_HOME, or else in a folder of the user's below the temporary folder."""
    flush_s: Positive = 30.0
    """Seconds that an event may wait in the journal."""
    max_events: Count = 100_000
    """Events of a replica that wait in the journal while the store cannot be reached; above that, events get 503."""
    max_event_bytes: Count = 256_000_000
    """Bytes in the journal's folder, likewise."""
    secret: Uri = ""
    """A file with a secret of 32 characters or more: pages are signed with it, clicks on others are refused, and it
    salts the assignment. Empty: whoever reaches the endpoint is trusted."""
    max_age_s: Positive = DAY_S
    """With `secret`: seconds between a page and a click on it; later ones are refused."""
    max_clicks: Count = 100
    """With `secret`: clicks of a page; more are refused."""

    def __post_init__(self) -> None:
        if self.events:
            check_design(self.name, self.variants, self.design, "online.")
        for variant in self.variants:  # each page of the test has it in its header `X-Variant`
            visible = variant.isascii() and variant.isprintable() and variant == variant.strip()
            require(visible, "online.variants", self.variants, f"{variant!r} must be visible ASCII, for a header")

    @property
    def test(self) -> ExperimentDesign | None:
        """The test's design; None where no test runs."""
        return ExperimentDesign(self.name, self.variants, design=self.design) if self.events else None


@dataclass(frozen=True, config=CHECKED)
class SearchConfig:
    """The search page at `/`, and `POST /v1/search` behind it."""

    corpus: Uri = ""
    """A collection as `retrieve` reads it: `pydoc:` or a BEIR folder; empty: no search, and the page says so."""
    title: str = ""
    """What the page calls the collection; empty: its folder's name."""
    language: Language = "auto"
    """How BM25 cuts texts into terms, as of `retrieve`."""
    depth: Count = 20
    """Documents that BM25 finds and the model re-ranks."""


@dataclass(frozen=True, config=CHECKED)
class ServeConfig:
    """The winner behind Ray Serve."""

    input: Uri
    """What is served: the output of `select` or `train`, a checkpoint folder, or a hub id."""
    host: str = "127.0.0.1"
    """The address to listen on. One that other machines reach needs `api_keys`, or `open: true`."""
    open: bool = False
    """Everyone who reaches the endpoint may ask, without a key."""
    hosts: tuple[str, ...] = ()
    """Names that requests may call the endpoint by (`Host`), as in [rank.example, "*.internal"], beside addresses;
    empty: any name with `api_keys` or `open`, otherwise localhost."""
    port: Annotated[int, Field(ge=1, le=65535), NO_BOOL] = 8000
    """The port to listen on."""
    replicas: Range = 1
    """Replicas, or {min: 1, max: 8}: as many as keep `busy_at` requests in each."""
    busy_at: Count = 16
    """Requests in a replica above which autoscaling adds one."""
    max_documents: Count = 1000
    """Documents of one request; more get 422."""
    max_query_chars: Count = 8000
    """Characters of a query; more get 422."""
    max_document_chars: Count = 200_000
    """Characters of a document; more get 422."""
    max_body_bytes: Count = 16_000_000
    """Bytes of a request's body; more get 413."""
    batch_tokens: Count = 16_384
    """Tokens that one scoring call takes from the requests that wait."""
    max_queued: Count = 128
    """Requests inside a replica, waiting or being scored; more get 503."""
    cache_entries: CountOrNone = 0
    """Pairs whose scores a replica remembers, least recently used dropped first; 0: none."""
    read_s: Positive = 10.0
    """Seconds within which the body of a request has to come; a slower one gets 408."""
    timeout_s: Positive = 120.0
    """Seconds after which a request without scores gets 504; its header `X-Deadline-Ms` may say less."""
    models: dict[str, str] = Field(default_factory=dict)
    """Other models by name, each as `input`; a request names one."""
    watch_s: NotNegative = 10.0
    """Seconds between two looks for another winner in `input` and other keys in `api_keys`; 0: never."""
    api_keys: Uri = ""
    """A file of bearer keys, one a line; empty: everyone may ask. If it vanishes while serving, no key is valid."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may use the endpoint, as in [https://shop.example]; "*" among them: all."""
    online: OnlineConfig = Field(default_factory=OnlineConfig)
    """The online test that runs at this endpoint."""
    search: SearchConfig = Field(default_factory=SearchConfig)
    """The search page."""
    max_explained: Count = 10
    """Documents that a request with `explain` may get back, each with its reason."""
    reason_tokens: Count = 64
    """Tokens of a reason, at most."""
    resources: ResourceSpec = Field(default_factory=lambda: {"CPU": 1.0})
    """What one replica asks of Ray."""
    backend: Backend = "torch"
    """What computes scores. `compile`: through torch.compile. `openvino`, `onnx`: encoders on CPUs."""
    precision: Precision = "auto"
    """Number format: `auto` is the faster of bfloat16 and float32 where it runs, by measurement (onnx: float32);
    `int8`: encoders on CPUs, by `backend: torch`, or less exactly by `onnx`."""
    chunks: ChunksConfig = Field(default_factory=ChunksConfig)
    """Long documents in chunks: students score each, and the best one counts and is named in the answer."""
    blocking: bool = True
    """Stay until Ctrl-C; false: send a query of `probe`, print the answer, stop."""
    probe: str = ""
    """The output of `retrieve` or `prerank`, from which a real query is taken."""

    def __post_init__(self) -> None:
        check_backend(self.backend, self.precision)
        cpu = self.backend in ("torch", "compile") or not self.resources.get("GPU")
        want = "scores on CPUs; set backend=torch or compile for resources={GPU: 1}"
        require(cpu, "backend", self.backend, want)
        reserved = [name for name in (WINNER, IDENTITY) if name in self.models]
        require(not reserved, "models", self.models, f"{' and '.join(reserved)} have a meaning of their own")
        known = (WINNER, IDENTITY, *self.models)
        for variant in self.online.variants:
            require(variant in known, "online.variants", variant, f"choose one of {', '.join(known)}")
        local = self.host in LOOPBACK or self.host.startswith("127.")
        want = "answers other machines: set api_keys, or open=true if everyone there may ask"
        require(local or self.open or bool(self.api_keys), "host", self.host, want)
        for name in self.hosts:
            plain = name == name.lower() and not {*"/:"} & {*name}
            require(plain, "hosts", name, "write a name in lower case without a port, as in rank.example")
        for origin in self.cors_origins:
            want = "write an origin without a path, as in https://shop.example, or *"
            require(ORIGIN.fullmatch(origin) is not None, "cors_origins", origin, want)
        require(self.blocking or bool(self.probe), "probe", self.probe, "blocking=false takes a query from it")

    @property
    def replica_range(self) -> tuple[int, int]:
        """The fewest and the most replicas."""
        return range_of(self.replicas)
