"""The demo's collection: the API documentation of the installed Python packages.

A document is a function, class or method: its name, signature and docstring without the summary line. A query is
a summary line. So every environment brings thousands of queries with known answers, with no download and no
licence to ask for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import io
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from rrad_ray.data.collection import Collection, Query
from rrad_ray.data.docstrings import Docstring, parse_docstring

STDLIB = """
abc argparse array ast asyncio base64 bdb binascii bisect builtins bz2 calendar cmath cmd code codecs collections
collections.abc colorsys concurrent.futures configparser contextlib contextvars copy copyreg csv ctypes ctypes.util
dataclasses datetime decimal difflib dis doctest email email.message email.headerregistry email.policy email.utils
enum filecmp fileinput fnmatch fractions ftplib functools gc getopt getpass gettext glob graphlib gzip hashlib heapq
hmac html html.parser http http.client http.cookiejar http.cookies http.server imaplib importlib importlib.abc
importlib.machinery importlib.metadata importlib.resources importlib.util inspect io ipaddress itertools json keyword
linecache locale logging logging.config logging.handlers lzma mailbox marshal math mimetypes mmap multiprocessing
multiprocessing.connection multiprocessing.managers multiprocessing.pool multiprocessing.shared_memory netrc numbers
operator os os.path pathlib pickle pickletools pkgutil platform plistlib poplib pprint profile pstats py_compile
pyclbr queue quopri random re reprlib resource runpy sched secrets select selectors shelve shlex shutil
signal site smtplib socket socketserver sqlite3 ssl stat statistics string stringprep struct subprocess symtable sys
sysconfig tarfile tempfile textwrap threading time timeit token tokenize trace traceback tracemalloc types typing
unicodedata unittest unittest.mock urllib.error urllib.parse urllib.request urllib.robotparser uuid venv warnings wave
weakref webbrowser wsgiref.handlers wsgiref.headers wsgiref.util xml.dom.minidom xml.dom.pulldom xml.etree.ElementTree
xml.sax xml.sax.handler xml.sax.saxutils xmlrpc.client xmlrpc.server zipapp zipfile zipimport zlib zoneinfo
"""

PYDOC_PACKAGES = {
    "numpy": "char ctypeslib dtypes exceptions fft lib.array_utils lib.format lib.npyio lib.scimath "
    "lib.stride_tricks linalg ma polynomial polynomial.chebyshev polynomial.hermite polynomial.hermite_e "
    "polynomial.laguerre polynomial.legendre polynomial.polynomial random rec strings testing typing",
    "pandas": "api.extensions api.indexers api.interchange api.types api.typing errors io.formats.style plotting "
    "testing tseries.frequencies tseries.offsets",
    "pyarrow": "acero compute csv dataset feather flight fs ipc json orc parquet parquet.encryption types",
    "scipy": "cluster.hierarchy cluster.vq constants datasets differentiate fft fftpack integrate interpolate io "
    "io.arff io.wavfile linalg linalg.blas linalg.interpolative ndimage odr optimize signal signal.windows sparse "
    "sparse.csgraph sparse.linalg spatial spatial.distance spatial.transform special stats stats.contingency "
    "stats.mstats stats.qmc stats.sampling",
    "sklearn": "base calibration cluster compose covariance cross_decomposition datasets decomposition "
    "discriminant_analysis dummy ensemble exceptions feature_extraction feature_extraction.image "
    "feature_extraction.text feature_selection gaussian_process gaussian_process.kernels impute inspection isotonic "
    "kernel_approximation kernel_ridge linear_model manifold metrics metrics.cluster metrics.pairwise mixture "
    "model_selection multiclass multioutput naive_bayes neighbors neural_network pipeline preprocessing "
    "random_projection semi_supervised svm tree utils utils.class_weight utils.extmath "
    "utils.graph utils.metaestimators utils.multiclass utils.random utils.sparsefuncs utils.validation",
    "torch": "amp autograd autograd.functional autograd.profiler backends.cuda backends.cudnn cuda distributed "
    "distributions distributions.constraints distributions.kl distributions.transforms export fft func futures fx "
    "hub jit library linalg masked monitor mps multiprocessing nested nn nn.functional nn.init nn.modules "
    "nn.parallel nn.utils nn.utils.parametrizations nn.utils.parametrize nn.utils.prune nn.utils.rnn optim "
    "optim.lr_scheduler optim.swa_utils overrides package profiler quasirandom random signal.windows sparse special "
    "testing utils.benchmark utils.checkpoint utils.cpp_extension utils.data utils.dlpack utils.flop_counter "
    "utils.tensorboard xpu",
}

SPLIT_SHARES = (
    (8, "test"),
    (12, "dev"),
    (20, "train"),
    (100, "unlabelled"),
)  # by hash of the query's text, in percent

MIN_BODY = 6  # words

MAX_SAME_SUMMARY, MAX_NAMESAKES = 3, 5

SAME_THING = 0.15  # share of summary words in common that makes a namesake the same thing in another package


@dataclasses.dataclass(frozen=True)
class Entry:
    """A documented object with all the public names that lead to it."""

    name: str
    aliases: tuple[str, ...]
    doc: Docstring
    text: str


# ---- walking the packages -----------------------------------------------------------------------------------


def _objects() -> Iterator[tuple[str, Any]]:
    """Return every public function, class and method by name."""
    modules = [(name, "") for name in STDLIB.split()]
    modules += [
        (f"{top}.{sub}".rstrip("."), top) for top, subs in PYDOC_PACKAGES.items() for sub in ["", *subs.split()]
    ]
    members = [pair for name, top in sorted(modules) for pair in _members(name, top)]
    public = {id(value) for _, value in members if inspect.isclass(value)}
    for name, value in members:
        yield name, value
        if inspect.isclass(value):
            yield from _methods(name, value, public)


def _members(name: str, top: str) -> Iterator[tuple[str, Any]]:
    try:
        module: ModuleType = importlib.import_module(name)
    except Exception:  # a package that is not installed, or half installed: it has no documentation to offer
        return
    listed = getattr(module, "__all__", None)
    for attribute in sorted(set(listed if listed is not None else dir(module))):
        try:
            value = getattr(module, attribute)
        except Exception:
            continue
        home = getattr(value, "__module__", None) or name
        if not isinstance(home, str) or attribute.startswith("_") or not callable(value):
            continue
        at_home = home.split(".")[0] == top if top else home == name or listed is not None
        if at_home:
            yield ("" if name == "builtins" else f"{name}.") + attribute, value


def _methods(name: str, cls: type, public: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield the methods that the class defines, or inherits from a base which has no public name of its own."""
    for attribute in sorted(dir(cls)):
        owner = next((base for base in cls.__mro__ if attribute in vars(base)), object)
        if attribute.startswith("_") or (owner is not cls and (owner is object or id(owner) in public)):
            continue
        try:
            value = getattr(cls, attribute)
        except Exception:
            continue
        static = inspect.getattr_static(cls, attribute)
        if inspect.isclass(value) and not inspect.isclass(static):  # an accessor, such as pandas.Series.str
            yield f"{name}.{attribute}", value
            yield from _methods(f"{name}.{attribute}", value, public)
        elif inspect.isroutine(value) or inspect.isroutine(static):
            yield f"{name}.{attribute}", value


def _entries() -> list[Entry]:
    """Return one entry for each object, under its shortest name; objects with the same text are one."""
    names: dict[int, list[str]] = defaultdict(list)
    values: dict[int, Any] = {}
    for name, value in _objects():
        value = getattr(value, "__func__", value)
        names[id(value)].append(name)
        values[id(value)] = value
    same: dict[tuple[str, str], list[tuple[str, ...]]] = defaultdict(list)
    docs: dict[str, tuple[Docstring, Any]] = {}
    for key, value in values.items():
        raw = getattr(value, "__doc__", None)
        borrowed = not inspect.isclass(value) and raw == type(value).__doc__
        if not isinstance(raw, str) or borrowed or "Overloaded function." in raw:
            continue
        aliases = tuple(sorted(set(names[key]), key=lambda name: (len(name), name)))
        doc = parse_docstring(raw)
        if len(doc.body.split()) >= MIN_BODY:
            docs[aliases[0]] = doc, value
            same[doc.summary, doc.body].append(aliases)
    entries = []
    for groups in same.values():
        aliases = tuple(sorted({name for group in groups for name in group}, key=lambda name: (len(name), name)))
        doc, value = docs[aliases[0]]
        arguments = _arguments(value)
        text = f"{aliases[0]}({doc.signature if arguments is None else arguments})\n{doc.body}"
        entries.append(Entry(aliases[0], aliases, doc, text))
    return sorted(entries, key=lambda entry: entry.name)


def _arguments(value: Any) -> str | None:
    """Return names and simple defaults without annotations (`a, axis=None`); None where Python cannot tell."""
    try:
        parameters = list(inspect.signature(value).parameters.values())
    except Exception:
        return None
    shown = []
    for parameter in parameters:
        if parameter.name in ("self", "cls") or parameter.name.startswith("_"):
            continue
        text = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))  # with its stars
        if parameter.default is not parameter.empty:
            # The repr of anything else may hold an address or a hash order.
            plain = type(parameter.default) in (type(None), bool, int, float, str)
            text += f"={parameter.default!r}" if plain and len(repr(parameter.default)) <= 16 else "=..."
        shown.append(text)
    return ", ".join(shown[:10] + ["..."] * (len(shown) > 10))


# ---- queries and judgments ----------------------------------------------------------------------------------

NO_NEED = re.compile(
    r"deprecat|^(see|alias|in-?place version|same as|initialize self|create and return a new|helper for|"
    r"return (repr|str)\(self\)|this (function|method|class) is (an )?(alias|private|internal)|internal|"
    r"(a |an )?(wrapper|thin wrapper|convenience)\b.*\b(around|for)|do not |don't |todo|added in|docstring|"
    r"equivalent to |warning|note:|- |for )|->|=>|[{}|]| = [\w.]+\(| is equivalent to ",
    re.IGNORECASE,
)

COMMON = {
    "return",
    "returns",
    "given",
    "object",
    "value",
    "values",
    "this",
    "that",
    "with",
    "from",
    "into",
    "elements",
}


def is_need(summary: str) -> bool:
    """Return true for a summary line that can stand as a search query."""
    words = summary.split()
    return 4 <= len(words) <= 40 and bool(re.search(r"[A-Za-z]{3}", summary)) and not NO_NEED.search(summary)


def _related(entry: Entry, known: Mapping[str, Entry], namesakes: Mapping[str, Sequence[Entry]]) -> set[str]:
    """Return the names in the See Also section, and those by which other packages call the same thing."""
    related = set()
    for target in entry.doc.see_also:
        target = re.sub(r"^np\.", "numpy.", target)
        parents = (alias.split(".")[:cut] for alias in entry.aliases for cut in range(alias.count("."), 0, -1))
        # A bare `sum` means the sibling, not the builtin.
        names = [target] * ("." in target) + [".".join([*parent, target]) for parent in parents]
        related.update([known[name].name for name in names if name in known][:1])
    top = entry.name.split(".")[0]
    others = [other for other in namesakes[entry.name.rpartition(".")[2]] if other.name.split(".")[0] != top]
    if len(others) <= MAX_NAMESAKES:
        own_words = _content(entry)
        related.update(
            o.name for o in others if len(own_words & _content(o)) >= SAME_THING * len(own_words | _content(o))
        )
    return related


def _content(entry: Entry) -> set[str]:
    return {word for word in re.findall(r"[a-z]{4,}", entry.doc.summary.lower()) if word not in COMMON}


def _query(text: str, answers: Sequence[Entry], related: set[str]) -> Query:
    digest = hashlib.sha256(text.encode()).hexdigest()
    split = next(name for limit, name in SPLIT_SHARES if int(digest, 16) % 100 < limit)
    judged = dict.fromkeys(sorted(related), 1) | {entry.name: 2 for entry in answers}
    return Query(f"q:{digest[:12]}", text, split, {} if split == "unlabelled" else judged)


def read_pydoc() -> Collection:
    """Return the documentation of the installed packages; the same environment gives the same collection."""
    silence = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        warnings.simplefilter("ignore")
        entries = _entries()
    known = {alias: entry for entry in entries for alias in entry.aliases}
    namesakes: dict[str, list[Entry]] = defaultdict(list)
    summaries: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        namesakes[entry.name.rpartition(".")[2]].append(entry)
        summaries[entry.doc.summary].append(entry)
    queries = []
    for text, answers in summaries.items():
        if not is_need(text) or len(answers) > MAX_SAME_SUMMARY:
            continue
        if not any(text.lower() in entry.text.lower() for entry in answers):
            related = set().union(*(_related(entry, known, namesakes) for entry in answers))
            queries.append(_query(text, answers, related))
    corpus = {entry.name: entry.text for entry in entries}
    return Collection("pydoc", corpus, sorted(queries, key=lambda query: query.query_id), [])
