"""The provider: each of the engine's questions is one call of ``reconcile``. Speaks no gRPC and no protobuf."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from provision import __version__
from provision.pools import contract
from provision.pulumi import config as configs
from provision.pulumi.config import Config
from provision.pulumi.protocol import (
    UNKNOWN,
    Checked,
    CheckRequest,
    CreateRequest,
    DeleteRequest,
    Difference,
    DiffRequest,
    Failure,
    Found,
    Made,
    PartialFailure,
    PropertyChange,
    ReadRequest,
    UpdateRequest,
    Values,
    has_unknown,
)
from provision.reconcile.folders import cache_folder
from provision.reconcile.parts import CONTRACT, DRIFT, TYPES, Inputs, PartType, TableMissing
from provision.spec.errors import ConsentError, HoldfastError, InputError, OperationError, UnreachableError
from provision.spec.secrets import Redactor, SecretMissing

if TYPE_CHECKING:
    from provision.plan.plan import Step
    from provision.pools.contract import Share
    from provision.reconcile.piecework import Done, Live, Piecework, Work
    from provision.reconcile.portions import Portion, Setting

#: Outputs beside the inputs. ``part`` is what the contract says of a resource, ``plan`` the steps ahead of it.
#: ``imported`` says that inputs were written from what lives and could not know everything.
OUTPUTS = frozenset({"address", "part", "plan", "content", "imported"})


#: A provider that Pulumi starts to destroy has the configuration of the last up.
_LATE = "A destroy takes consents from the last up, or with --run-program from the configuration."


class Screen(Protocol):
    """Lines for whoever runs Pulumi."""

    def info(self, text: str, urn: str = "") -> None: ...
    def warn(self, text: str, urn: str = "") -> None: ...


class Provider:
    """Holds the targets of one plane in one environment. Connects when it first has to."""

    def __init__(
        self, screen: Screen, engine: str = "", *, cache: Path | None = None, as_of: datetime | None = None
    ) -> None:
        self.screen = screen
        self.engine = engine
        self.version = __version__
        self._lock = threading.Lock()
        self._made: Piecework | None = None
        self._cache = cache
        self._as_of = as_of
        self._config: Config | None = None
        self._redactor = Redactor()
        self._is_missing_told = False
        self._asking = threading.Lock()
        self._asked: dict[str, int] = {}

    # The provider itself ----------------------------------------------------------------------------------

    def schema(self) -> str:
        return resources.files("provision.pulumi").joinpath("schema.json").read_text(encoding="utf-8")

    def check_config(self, news: Values, secret_keys: frozenset[str]) -> Checked:
        return Checked(news, tuple(configs.failures(news)), frozenset({"secrets"}) & news.keys())

    def diff_config(self, old_inputs: Values, news: Values) -> Difference:
        names = [n for n in {**old_inputs, **news} if old_inputs.get(n) != news.get(n)]
        detailed = tuple(PropertyChange((n,), _kind(old_inputs, news, n), n in configs.IDENTITY) for n in names)
        return Difference(bool(detailed), detailed)

    def configure(self, config: Values) -> None:
        wrong = next(configs.failures(config), None)
        if wrong is not None:
            raise InputError(f"provider: {'.'.join(map(str, wrong.pointer))}: {wrong.reason}")
        self._config = configs.read(config)
        for value in self._config.secrets.values():
            self._redactor.add(value)

    def cancel(self) -> None:
        if self._made is not None:
            self._made.cancel()

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def redact(self, text: str) -> str:
        return self._redactor(text)

    # Offline: inputs against inputs -----------------------------------------------------------------------

    def check(self, request: CheckRequest) -> Checked:
        news, type = request.news, _type(request.type)
        if has_unknown(news) or not self._known.is_known or news == request.olds:
            return Checked(news)
        stray = [name for name in (DRIFT, *OUTPUTS) if name in news]
        if stray:
            return Checked(news, tuple(Failure((name,), f"{name} is no input") for name in stray))
        server = type.server(news)
        if server is not None and server not in self._known.targets:
            return Checked(news, (Failure(("target",), f"the provider has no {server[0]} target {server[1]}"),))
        from provision.reconcile.portions import portion

        found = portion(type, news, self._setting)
        failures = [Failure(f.pointer, f"{f.message}. {f.help}".strip()) for f in found.findings]
        if not failures and request.olds is not None and not has_unknown(request.olds):
            failures += self._unallowed(portion(type, request.olds, self._setting), found)
        # The engine prints the value of a failed property, unless it is secret.
        plain = frozenset({"password"} if isinstance(news.get("password"), str) else ())
        return Checked(news, tuple(failures), plain)

    def _unallowed(self, before: Portion, after: Portion) -> list[Failure]:
        """What the change puts at stake and nobody has allowed."""
        from provision.plan import consents
        from provision.reconcile.portions import transition

        if not before.type.is_weighed or before.type.id(before.inputs) != after.type.id(after.inputs):
            return []
        try:
            plan = transition(before, after, self._setting)
        except HoldfastError as error:
            return [Failure((), _line(error))]
        details = {f"{h.kind}:{s.object}": h.detail for s in plan.steps for h in s.hazards}
        lacking = consents.missing(plan, self._known.allow)
        return [Failure((), f"{details[c]}. {self._how_to_allow(c)}") for c in lacking]

    def diff(self, request: DiffRequest) -> Difference:
        type = _type(request.type)
        olds, news = request.old_inputs, request.news
        if olds == news:
            return Difference()
        is_renamed = "renamed_from" in news and news["renamed_from"] == olds.get("name")
        fixed = type.identity if type.fixed is None else type.fixed
        replaced = [n for n in _differing(olds, news, fixed) if not (n == "name" and is_renamed)]
        if replaced:
            return Difference(True, tuple(PropertyChange((n,), _kind(olds, news, n), True) for n in replaced))
        if has_unknown(news) or has_unknown(olds) or not self._known.is_known:
            names = [n for n in {**olds, **news} if olds.get(n) != news.get(n)]
            return Difference(True, tuple(PropertyChange((n,), _kind(olds, news, n)) for n in names))
        from provision.reconcile.portions import changed, portion

        before, after = (portion(type, side, self._setting) for side in (olds, news))
        found = [
            PropertyChange(c.pointer, c.kind)
            for c in changed(before, after, self._setting, imported="imported" in request.olds)
        ]
        found += [PropertyChange((n,), _kind(olds, news, n)) for n in _differing(olds, news, type.identity)]
        if DRIFT in olds:
            found.append(PropertyChange((DRIFT,), "delete"))
        return Difference(bool(found), tuple(found))

    # On the servers ---------------------------------------------------------------------------------------

    def create(self, request: CreateRequest) -> Made:
        type = _type(request.type)
        properties = self._bring(request.urn, type, request.inputs, None, preview=request.preview)
        return Made("" if request.preview else type.id(request.inputs), properties)

    def update(self, request: UpdateRequest) -> Values:
        type = _type(request.type)
        is_imported = "imported" in request.olds
        return self._bring(request.urn, type, request.news, request.old_inputs, is_imported, preview=request.preview)

    def delete(self, request: DeleteRequest) -> None:
        type = _type(request.type)
        if not type.is_removable:
            return
        try:
            self._do(self._work(type, None, request.old_inputs, is_claimed=True))
        except ConsentRefused as error:
            raise ConsentRefused(str(error), f"{_LATE} {error.help}") from error

    def read(self, request: ReadRequest) -> Found | None:
        from provision.reconcile.portions import portion

        type = _type(request.type)
        known = portion(type, request.inputs, self._setting) if request.inputs else None
        found = self._guard(lambda: self._pieces.look(request.id, known, type))
        if found is None:
            return None
        outputs = {**_own(request.properties), **_seen(type, found)}
        if known is None:
            outputs["imported"] = True
        return Found(request.id, found.inputs, {"plan": [], **outputs})

    def _bring(
        self, urn: str, type: PartType, news: Inputs, olds: Inputs | None, is_imported: bool = False, *, preview: bool
    ) -> dict[str, Any]:
        """Bring a resource to its inputs and give its properties."""
        if preview and (has_unknown(news) or not self._known.is_known):
            return {**news, **_unknown(type, news)}
        work = self._work(type, news, olds, is_claimed=is_imported)
        if not preview:
            return self._properties(work, self._do(work) if olds is not None else self._make(work), ahead=False)
        try:
            done = self._guard(lambda: self._pieces.preview(work))
        except TableMissing:
            ahead = f"{work.id}: create partitions as soon as the table is there"
            return {**news, **_unknown(type, news), "plan": [ahead]}
        except (UnreachableError, SecretMissing) as error:
            self._tell_missing(error)
            return {**news, **_unknown(type, news)}
        for step in done.steps:
            for hazard in step.hazards:
                count = "" if hazard.count is None else f" ({hazard.count:,} {hazard.unit})"
                say = self.screen.warn if hazard.needs_consent else self.screen.info
                say(f"{hazard.kind}: {step.object}: {hazard.detail}{count}", urn)
        return self._properties(work, done, ahead=True)

    def _tell_missing(self, error: HoldfastError) -> None:
        if not self._is_missing_told:
            self._is_missing_told = True
            self.screen.info(f"steps and live counts are missing: {_line(error)}")

    def _properties(self, work: Work, done: Done, *, ahead: bool) -> dict[str, Any]:
        """The outputs; ``plan`` holds the steps that are still ahead."""
        assert work.wanted is not None
        found = {**work.wanted.inputs, "address": work.id, "plan": [_told(s) for s in done.steps] if ahead else []}
        if done.content is not None:
            found["content"] = json.dumps(done.content, sort_keys=True)
        return {**found, "part": contract.encode(done.share) if done.share is not None else {}}

    def _work(self, type: PartType, news: Inputs | None, olds: Inputs | None, *, is_claimed: bool = False) -> Work:
        from provision.reconcile.piecework import Work
        from provision.reconcile.portions import portion

        wanted = portion(type, news, self._setting) if news is not None else None
        before = portion(type, olds, self._setting) if olds is not None and not has_unknown(olds) else None
        if wanted is not None and wanted.findings:
            first = wanted.findings[0]
            raise InputError(f"{'.'.join(map(str, first.pointer))}: {first.message}", first.help)
        inputs = news if news is not None else olds
        assert inputs is not None
        shares = [_share(text) for text in (inputs.get("parts") or {}).values()] if type is CONTRACT else []
        return Work(type.id(inputs), wanted, before, shares, is_claimed)

    def _do(self, work: Work) -> Done:
        done: Done = self._guard(lambda: self._pieces.apply(work))
        return done

    def _make(self, work: Work) -> Done:
        """Do what a create asks for. Raises PartialFailure where it failed with some of it made: that is the plane's,
        so the engine must know of it."""
        from provision.plan.protocols import LockHeld
        from provision.reconcile.piecework import Cancelled

        assert work.wanted is not None
        type = work.wanted.type

        def make() -> Done:
            try:
                return self._pieces.apply(work)
            except (LockHeld, Cancelled):
                raise
            except OperationError as error:
                found = self._left(work)
                if found is None:
                    raise
                outputs = {**_seen(type, found), "plan": []}
                raise PartialFailure(work.id, outputs, found.inputs, (_line(error),)) from error

        done: Done = self._guard(make)
        return done

    def _left(self, work: Work) -> Live | None:
        """What a failed create has made, as far as the servers still tell."""
        try:
            return self._pieces.left(work)
        except HoldfastError:
            return None

    def _guard(self, call: Any) -> Any:
        """Run it, with what only this front end knows added to its errors."""
        from provision.plan.protocols import LockHeld

        try:
            return call()
        except ConsentError as error:
            ways = self._how_to_allow(*error.consents)
            raise ConsentRefused(ConsentError.told(error.consents), ways) from error
        except LockHeld as error:
            if self.engine and f"pulumi {self.engine} " in str(error):
                raise OperationError(
                    f"another provider of this run works on plane {self._known.plane} already",
                    "Use the plane's provider: pass it as provider= in the resource's options.",
                ) from error
            raise

    def _how_to_allow(self, *lacking: str) -> str:
        """The commands that add consents to those which the stack has, and to those asked for before."""
        with self._asking:
            places = [(self._asked.setdefault(c, len(self._known.allow) + len(self._asked)), c) for c in lacking]
        commands = (f"pulumi config set --path 'holdfast:allow[{index}]' {c}" for index, c in places)
        return f"Allow it with: {' && '.join(commands)}"

    @property
    def _known(self) -> Config:
        if self._config is None:
            raise OperationError("the provider was not configured", "Give it plane, env and targets.")
        return self._config

    @property
    def _who(self) -> str:
        return f"pulumi {self.engine} holdfast {self._known.env}"

    @property
    def _setting(self) -> Setting:
        from provision.reconcile.portions import Setting

        known = self._known
        return Setting(known.plane, known.env, known.targets, self._cache or cache_folder())

    @property
    def _pieces(self) -> Piecework:
        """The one queue of this process. Requests come in several threads; two queues would mean two locks."""
        from provision.reconcile.piecework import Piecework
        from provision.reconcile.targets import Targets

        with self._lock:
            if self._made is None:
                known, say = self._known, self.screen.info
                targets = Targets(known.targets, known.root, known.env, say, who=self._who, given=known.secrets)
                clock = self._as_of
                self._made = Piecework(
                    self._setting, targets, known.allow, say, clock=lambda: clock or datetime.now(UTC)
                )
            return self._made


class ConsentRefused(OperationError):
    """A consent is missing; the message says how to give it to a stack."""


def _type(token: str) -> PartType:
    name = token.rpartition(":")[2]
    if name not in TYPES:
        raise InputError(f"there is no resource type {token}", f"There are: {', '.join(TYPES)}.")
    return TYPES[name]


def _differing(olds: Values, news: Values, identity: Iterable[str]) -> list[str]:
    """The inputs by which these are two objects; no target is the target main."""
    return [n for n in identity if (olds.get(n) or "main") != (news.get(n) or "main")]


def _kind(olds: Values, news: Values, name: str) -> Any:
    return "add" if name not in olds else "delete" if name not in news else "update"


def _own(properties: Values) -> dict[str, Any]:
    """The outputs that no input gives."""
    return {k: v for k, v in properties.items() if k in OUTPUTS}


def _seen(type: PartType, live: Live) -> dict[str, Any]:
    """The properties of what lives."""
    part = {} if type is CONTRACT else contract.encode(live.share)
    content = {} if live.content is None else {"content": json.dumps(live.content, sort_keys=True)}
    return {**live.inputs, "address": type.id(live.inputs), "part": part, **content}


def _unknown(type: PartType, news: Values) -> dict[str, Any]:
    """The outputs where no server was asked. That what others change changes the contract is known all the same."""
    is_placed = not has_unknown([news.get(name) for name in type.identity])
    found: dict[str, Any] = {"address": type.id(news) if is_placed else UNKNOWN, "part": UNKNOWN, "plan": UNKNOWN}
    if type is CONTRACT:
        found |= {"content": UNKNOWN, "plan": [f"{type.id(news)}: write the contract"]}
    return found


def _line(error: HoldfastError) -> str:
    return f"{error}. {error.help}" if error.help else str(error)


def _told(step: Step) -> str:
    """One step in one line: what, and what it locks or risks."""
    locks = f" [{step.lock}]" if step.lock else ""
    return f"{step.object}: {step.summary}{locks}{''.join(f' !{h.kind}' for h in step.hazards)}"


def _share(part: Any) -> Share:
    if not isinstance(part, Mapping) or not {"digest", "entries"} <= part.keys():
        raise InputError("parts must be the part outputs of the plane's other resources")
    return contract.decode(part)


__all__: Sequence[str] = ["OUTPUTS", "Provider", "Screen"]
