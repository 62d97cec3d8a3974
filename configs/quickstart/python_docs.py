"""The running interpreter's standard library as documents: one row per public object.

The objects are read in a child interpreter (`-I -S`): the caller imports nothing, its patches and
site-packages do not show, and whatever a module prints or warns on import stays outside.

Which names are public, and which name an object with several gets (the id rule):

1. Modules: every importable name in `sys.stdlib_module_names` and its submodules without a leading
   underscore, less `SKIPPED`. `posixpath` and its like are read as `os.path`.
2. A module's names: its `__all__`; without one, the public names that it or its private
   implementation (`_csv` for `csv`) defines.
3. An object reached by several names is listed once: fewest dots first (`json.JSONDecoder`, not
   `json.decoder.JSONDecoder`; `open`, not `io.open`: built-ins carry no module), then in the
   module that defines it, then under its own `__name__`, then alphabetically.
4. Methods and documented properties are listed under the class that defines them
   (`pathlib.PurePath.suffix`, not `pathlib.Path.suffix`), or under the nearest public subclass if
   that class is private. Methods without a docstring of their own are left out; dunder methods too.
"""

import importlib
import inspect
import json
import logging
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from types import ClassMethodDescriptorType, ModuleType

log = logging.getLogger(__name__)

# Not importable without effects, needing a display, private to CPython's tests, or the second name
# of a module that is read under another one ...
SKIPPED = frozenset(
    "__main__ antigravity this idlelib test turtledemo turtle tkinter pydoc_data xxlimited "
    "xxlimited_35 xxsubtype posix posixpath nt ntpath genericpath nturl2path sre_compile "
    "sre_constants sre_parse "
    # ... or gone by Python 3.13: without them the supported versions read nearly the same corpus.
    "aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap "
    "msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib".split()
)
# Packages whose other submodules hold what the package itself exports, or tables (encodings).
FLAT = frozenset(
    "asyncio concurrent.futures ctypes encodings importlib.resources json multiprocessing sqlite3 "
    "unittest xml.dom xml.etree".split()
)
# Documented submodules of those, and a module that is an attribute of another one.
ALSO = (
    "asyncio.subprocess ctypes.util json.tool multiprocessing.connection multiprocessing.managers "
    "multiprocessing.pool multiprocessing.shared_memory os.path unittest.mock xml.dom.minidom "
    "xml.dom.pulldom xml.etree.ElementTree".split()
)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
FIELD_ALIAS = "Alias for field number"  # what namedtuple writes for each of its fields
RECEIVERS = ("self", "cls", "type")
LITERALS = (bool, int, float, complex, str, bytes, type(None), type(...))


@dataclass(frozen=True)
class Entry:
    """One public object and where it is found."""

    name: str
    module: str
    kind: str
    value: object
    owner: object = None  # the class of a method


def read_python_docs() -> Iterator[dict[str, object]]:
    """Rows of the running interpreter's standard library, sorted by doc_id.

    Keys: doc_id (dotted name, unique), title (the same), text (dotted name + signature, then the
    docstring; unique), kind (module | class | function | method), module. The same interpreter
    gives the same rows each time.
    """
    command = [sys.executable, "-I", "-S", "-B", "-W", "ignore", "-X", "utf8", __file__]
    child = subprocess.run(  # noqa: S603 - this interpreter on this module
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False
    )
    if child.returncode:
        raise RuntimeError(
            f"reading the standard library in a child interpreter ended with {child.returncode}; "
            f"expected 0. Its last words: {child.stderr[-2000:].strip()}"
        )
    log.debug("modules that this platform cannot import, %s", child.stderr.strip())
    for line in child.stdout.splitlines():
        yield json.loads(line)


def read_in_this_process() -> tuple[list[dict[str, object]], list[str]]:
    """Rows sorted by doc_id, and the modules that could not be imported here."""
    modules, missing = import_modules()
    entries = canonical([entry for module in modules.items() for entry in module_entries(*module)])
    entries += [Entry(name, name, "module", module) for name, module in modules.items()]
    owned = methods(entries)
    rows = {entry.name: row(entry) for entry in owned}
    rows |= {entry.name: row(entry) for entry in entries}
    return [rows[name] for name in sorted(rows)], missing


def import_modules() -> tuple[dict[str, ModuleType], list[str]]:
    """Public modules by name, and the names of those that fail to import."""
    found: dict[str, ModuleType] = {}
    missing: list[str] = []
    waiting = [*ALSO, *sorted(name for name in sys.stdlib_module_names if is_public(name))]
    while waiting:
        name = waiting.pop()
        try:
            found[name] = module = importlib.import_module(name)
        except (Exception, SystemExit):  # platform-specific modules raise whatever they like
            missing.append(name)
            continue
        if name not in FLAT and hasattr(module, "__path__"):
            children = sorted(child.name for child in pkgutil.iter_modules(module.__path__))
            waiting += [f"{name}.{child}" for child in children if is_public(child)]
    return found, missing


def is_public(name: str) -> bool:
    """Whether a module of this name, without its package, is read."""
    return name not in SKIPPED and (not name.startswith("_") or name == "__future__")


def module_entries(name: str, module: ModuleType) -> Iterator[Entry]:
    """Classes and functions among the public names of one module."""
    for attribute, value in sorted(public_names(module).items()):
        kind = kind_of(value)
        if kind is not None:
            dotted = attribute if name == "builtins" else f"{name}.{attribute}"
            yield Entry(dotted, name, kind, value)


def public_names(module: ModuleType) -> dict[str, object]:
    """`__all__` of the module, or the names without underscore that it defines itself."""
    if hasattr(module, "__all__"):
        pairs = {name: getattr(module, name, None) for name in module.__all__}
        return {name: value for name, value in pairs.items() if not name.startswith("_")}
    home = module.__name__.partition(".")[0]
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (home == "builtins" or defined_in(value).partition(".")[0].lstrip("_") == home)
    }


def defined_in(value: object) -> str:
    """Name of the defining module, empty where the object does not say."""
    home = getattr(value, "__module__", None)
    return home if isinstance(home, str) else ""


def kind_of(value: object) -> str | None:
    """`class`, `function`, or None for data and modules."""
    if inspect.isclass(value):
        return "class"
    if inspect.isroutine(value):
        return "function"
    # typing.Optional and its like are callable objects with a docstring of their own.
    own = getattr(value, "__doc__", None)
    if callable(value) and isinstance(own, str) and own != type(value).__doc__:
        return "function"
    return None


def canonical(entries: list[Entry]) -> list[Entry]:
    """Each object once, under the name that the id rule prefers."""

    def preference(entry: Entry) -> tuple[int, bool, bool, str]:
        own_name = getattr(entry.value, "__name__", None)
        return (
            entry.name.count("."),
            defined_in(entry.value) != entry.module,
            entry.name.rpartition(".")[2] != own_name,
            entry.name,
        )

    chosen: dict[object, Entry] = {}
    for entry in sorted(entries, key=preference):
        chosen.setdefault(identity(entry.value), entry)
    return list(chosen.values())


def identity(value: object) -> object:
    """What makes two names the same object; a bound method is made anew at each access."""
    if inspect.ismethod(value):
        return id(value.__self__), id(value.__func__)
    return id(value)


def methods(entries: list[Entry]) -> list[Entry]:
    """Public methods and documented properties of the classes among them, each under one class."""
    classes = [entry for entry in entries if entry.kind == "class"]
    public = {entry.value for entry in classes}
    # random.choice is a method of random.Random, and listed already.
    taken = {id(entry.value.__func__) for entry in entries if inspect.ismethod(entry.value)}
    bound = []
    # Bases come before the classes derived from them, so that the nearest public class wins.
    for entry in sorted(classes, key=nearness):
        for name, raw in sorted(own_members(entry.value, public).items()):
            member = method_entry(entry, name, raw)
            key = id(getattr(raw, "__func__", raw))
            if member is not None and key not in taken:
                taken.add(key)
                bound.append(member)
    return bound


def nearness(entry: Entry) -> tuple[int, int, str]:
    """Sort key of a class; ExitStack comes before AsyncExitStack, which is as deep."""
    return len(mro(entry.value)), len(entry.name), entry.name


def mro(cls: object) -> tuple[type, ...]:
    """The class and its bases, in the order in which attributes are looked up."""
    return getattr(cls, "__mro__", ())


def own_members(cls: object, public: set[object]) -> dict[str, object]:
    """Public members that the class defines, or takes from a base that is not public."""
    members: dict[str, object] = {}
    for base in reversed(mro(cls)):
        for name, raw in vars(base).items():
            if name.startswith("_"):
                continue
            members.pop(name, None)
            if base is cls or base not in public:
                members[name] = raw
    return members


def method_entry(owner: Entry, name: str, raw: object) -> Entry | None:
    """The entry of one member, None for data, nested classes and what has no own docstring."""
    value = getattr(raw, "__func__", raw)  # of a classmethod or staticmethod
    doc = own_docstring(value)
    if not doc or doc == own_docstring(type(value)) or doc.startswith(FIELD_ALIAS):
        return None
    if isinstance(raw, ClassMethodDescriptorType):
        value = getattr(owner.value, name)  # the descriptor itself has no signature
    if (
        inspect.isroutine(value)
        or inspect.isdatadescriptor(value)
        or isinstance(value, cached_property)
    ):
        return Entry(f"{owner.name}.{name}", owner.module, "method", value, owner.value)
    return None


def row(entry: Entry) -> dict[str, object]:
    """The document of one object."""
    text = f"{entry.name}{signature(entry)}\n\n{own_docstring(entry.value)}".strip()
    return {
        "doc_id": entry.name,
        "title": entry.name,
        "text": ADDRESS.sub("", text),
        "kind": entry.kind,
        "module": entry.module,
    }


def own_docstring(value: object) -> str:
    """The docstring of the object itself, cleaned; empty if it has none or inherits it."""
    inherited = inspect.isclass(value) and "__doc__" not in vars(value)
    raw = None if inherited else getattr(value, "__doc__", None)
    return inspect.cleandoc(raw) if isinstance(raw, str) else ""


def signature(entry: Entry) -> str:
    """The parameters as a caller writes them, without annotations; empty if unknown."""
    if entry.kind == "module" or not callable(entry.value):
        return ""
    try:
        callable_signature = inspect.signature(entry.value)
    except Exception:  # no text signature, or one that names what this build does not have
        return ""
    parameters = list(callable_signature.parameters.values())
    if entry.owner is not None and parameters and parameters[0].name in RECEIVERS:
        parameters = parameters[1:]
    shown = [
        one.replace(annotation=inspect.Parameter.empty, default=shown_default(one.default))
        for one in parameters
    ]
    return str(inspect.Signature(shown))


class Shown:
    """A default value that a signature prints as the given text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def shown_default(value: object) -> object:
    """A default whose text is the same in every process: no addresses, no set order."""
    if value == sys.executable:
        return Shown("sys.executable")
    if value is inspect.Parameter.empty or type(value) in LITERALS:
        return value
    if isinstance(value, Enum):
        return Shown(f"{type(value).__name__}.{value.name}")
    name = getattr(value, "__qualname__", None)
    if isinstance(name, str):
        return Shown(name)
    if value in ((), [], {}):
        return value
    return Shown("...")


def main() -> None:
    """One JSON row a line on stdout; on stderr the modules that cannot be imported here."""
    # Some modules write to file descriptor 1 from C when imported (readline): give them stderr's.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as rows_out:
        os.dup2(2, 1)
        rows, missing = read_in_this_process()
        rows_out.writelines(f"{json.dumps(one)}\n" for one in rows)
    sys.stderr.write(f"\n{' '.join(missing)}\n")


if __name__ == "__main__":
    main()
