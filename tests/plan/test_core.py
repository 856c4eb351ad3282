"""The pure core: diff, closure, lower, order and the Plan as a value. A toy kind stands in for real ones."""

from __future__ import annotations

import ast
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.plan.assemble import Seen, assemble
from provision.plan.consents import missing, required
from provision.plan.fingerprint import fingerprint
from provision.plan.lower import LoweringError, Work
from provision.plan.order import CycleError, order
from provision.plan.plan import PlanFileError, dumps, from_json
from provision.plan.renames import move_renamed
from provision.plan.scope import ScopeError
from provision.spec.change import Change, Context, Draft, Hazard, Impact, Lowered, Sql
from provision.spec.ident import KIND_WORDS, Address
from provision.spec.kind import PlainKind
from provision.spec.record import Facts, Plane, Record

CLOCK = datetime(2026, 11, 21, 12, tzinfo=UTC)
FACTS = {("pg", "main"): Facts("pg", "main", (18, 0, 0), {})}
CORE = Path(__file__).parents[2] / "provision" / "plan"


class Thing(PlainKind):
    """Created, altered and dropped by one statement each; ``hard`` replaces, ``shape`` alters dependents."""

    name = "table"
    system = "pg"

    def impact(self, change: Change, facts: Facts) -> Impact:
        if "hard" in change.fields:
            return "replace"
        return "alter" if "shape" in change.fields else "none"

    def lower(self, change: Change, context: Context) -> Lowered:
        a = change.address
        if change.action == "create":
            drafts = [Draft(a, "create", Sql(f"create {a}"), "create", makes=(a,))]
        elif change.action == "delete":
            loss = Hazard("data_loss", "rows are lost", count=3)
            drafts = [Draft(a, "drop", Sql(f"drop {a}"), "drop", destroys=(a,), hazards=(loss,))]
        elif change.action in ("replace", "rebuild"):
            drafts = [
                Draft(a, "drop", Sql(f"drop {a}"), "drop", key="drop", destroys=(a,)),
                Draft(a, "create", Sql(f"create {a}"), "create", makes=(a,)),
            ]
        else:
            drafts = [Draft(a, "alter", Sql(f"alter {a}"), "alter")]
        return Lowered(tuple(drafts), (a,))


KINDS: Any = {"table": Thing()}


def at(name: str) -> Address:
    return Address("pg", "main", "table", ("s", name))


def thing(name: str, *refs: str, rigid: tuple[str, ...] = (), **settings: Any) -> Record:
    return Record(at(name), settings, refs=tuple(map(at, refs)), rigid=tuple(map(at, rigid)))


def plan_of(
    desired: list[Record], live: list[Record], owned: set[str] | None = None, only: tuple[str, ...] = ()
) -> Any:
    known = {str(r.address) for r in live} if owned is None else owned
    return assemble(Plane(desired, name="p", env="e"), Seen(Plane(live), known, FACTS), KINDS, CLOCK, only)


def ids(plan: Any) -> list[str]:
    return [s.id.removeprefix("pg:main/s/") for s in plan.steps]


names = st.sampled_from([f"n{i}" for i in range(12)])
planes = st.dictionaries(names, st.fixed_dictionaries({"v": st.integers(0, 2), "hard": st.integers(0, 1)}))


@st.composite
def linked(draw: Any) -> list[Record]:
    """A plane whose references always point to earlier names, as real ones do."""
    chosen = draw(planes)
    ordered = sorted(chosen)
    return [
        thing(n, *draw(st.lists(st.sampled_from(ordered[:i]), unique=True, max_size=3)) if i else (), **chosen[n])
        for i, n in enumerate(ordered)
    ]


@given(linked(), linked())
def test_running_the_steps_leads_from_any_plane_to_any_other(before: list[Record], after: list[Record]) -> None:
    plan = plan_of(after, before)
    world = {str(r.address) for r in before}
    depends = {str(r.address): {str(x) for x in r.refs} for r in before}
    wanted = {str(r.address): {str(x) for x in r.refs} for r in after}
    for step in plan.steps:
        if step.action == "create":
            assert step.object not in world
            assert wanted[step.object] <= world
            world.add(step.object)
            depends[step.object] = wanted[step.object]
        elif step.action == "drop":
            world.remove(step.object)
        else:
            assert step.object in world
    assert world == set(wanted)


@pytest.mark.req("B2.1")
@given(linked())
def test_a_plane_compared_with_itself_gives_no_steps(plane: list[Record]) -> None:
    assert plan_of(plane, plane).is_empty


@given(linked(), linked())
def test_equal_inputs_give_equal_bytes(before: list[Record], after: list[Record]) -> None:
    first, second = plan_of(after, before), plan_of(after, before)
    assert dumps(first, required(first)) == dumps(second, required(second))


@given(linked(), linked())
def test_a_plan_survives_its_file(before: list[Record], after: list[Record]) -> None:
    plan = plan_of(after, before)
    assert from_json(json.loads(dumps(plan, required(plan)))) == plan


def test_a_damaged_plan_file_says_what_to_do() -> None:
    with pytest.raises(PlanFileError, match="holdfast plan -o"):
        from_json([1])
    with pytest.raises(PlanFileError, match="make the plan again"):
        from_json(
            {"version": 1, "steps": [{}], "plane": "p", "env": "e", "as_of": "", "fingerprint": "", "touched": []}
        )


def test_a_replaced_object_takes_its_dependents_through_drop_and_create() -> None:
    live = [thing("a", hard=0), thing("b", "a"), thing("c", "b"), thing("d")]
    plan = plan_of([thing("a", hard=1), thing("b", "a"), thing("c", "b"), thing("d")], live)
    assert ids(plan) == ["c#drop.drop", "b#drop.drop", "a#drop.drop", "a#create", "b#create", "c#create"]


def test_an_object_that_moves_between_two_sides_of_a_replacement_is_remade_too() -> None:
    live = [thing("a", hard=0), thing("gone", "a"), thing("mover", "gone", v=0)]
    wanted = [thing("a", hard=1), thing("new", "a"), thing("mover", "new", v=1)]
    order_of = ids(plan_of(wanted, live))
    assert order_of == ["mover#drop.drop", "gone#drop", "a#drop.drop", "a#create", "new#create", "mover#create"]


def test_an_altered_object_rebuilds_only_rigid_dependents() -> None:
    live = [thing("a", shape=0), thing("view", "a", rigid=("a",)), thing("loose", "a")]
    plan = plan_of([thing("a", shape=1), thing("view", "a", rigid=("a",)), thing("loose", "a")], live)
    assert ids(plan) == ["view#drop.drop", "a#alter", "view#create"]


def test_undeclared_objects_are_dropped_only_when_owned() -> None:
    live = [thing("mine"), thing("theirs")]
    plan = plan_of([], live, owned={str(at("mine"))})
    assert ids(plan) == ["mine#drop"]
    assert required(plan) == ("data_loss:pg:main/s/mine",)
    assert missing(plan, ["data_loss:pg:main/s/mine"]) == ()


def test_prune_of_the_parent_drops_what_nobody_declares_and_its_absence_reports_it() -> None:
    child = Record(at("x").child("column", "extra"), {}, parent=at("x"))
    column = {"column": Thing(), **KINDS}
    for prune, expected in ((True, ["x/column/extra#drop"]), (False, [])):
        seen = Seen(Plane([thing("x", prune=prune), child]), {str(at("x"))}, FACTS)
        plan = assemble(Plane([thing("x", prune=prune)]), seen, column, CLOCK)
        assert ids(plan) == expected
        assert [d.change for d in plan.drift] == (["undeclared"] if prune else ["unmanaged"])


def test_an_equal_object_without_owner_is_adopted_and_a_differing_one_needs_a_consent() -> None:
    plan = plan_of([thing("same", v=1), thing("other", v=1)], [thing("same", v=1), thing("other", v=2)], owned=set())
    assert plan.adopt == ("pg:main/s/same",)
    assert required(plan) == ("adopt:pg:main/s/other",)
    assert missing(plan, ["adopt:pg:main/s"]) == ()


def inner(table: str, name: str, old: str | None = None, **settings: Any) -> Record:
    renamed = at(table).child("column", old) if old is not None else None
    return Record(at(table).child("column", name), settings, parent=at(table), renamed_from=renamed)


def test_a_rename_carries_what_is_inside_and_hands_the_ledger_over() -> None:
    class Renaming(Thing):
        def lower(self, change: Change, context: Context) -> Lowered:
            if change.action != "rename":
                return super().lower(change, context)
            assert change.before is not None
            a, b = change.address, change.before.address
            return Lowered((Draft(a, "rename", Sql(f"{b} -> {a}"), "", makes=(a,), destroys=(b,)),), (a,))

    kinds: Any = {"table": Renaming(), "column": Renaming()}
    live = [thing("old"), inner("old", "kept"), inner("old", "was")]
    wanted = [thing("new")._replace(renamed_from=at("old")), inner("new", "kept"), inner("new", "is", old="was")]
    owned = {str(r.address) for r in live}
    plan = assemble(Plane(wanted), Seen(Plane(live), owned, FACTS), kinds, CLOCK)
    assert [str(s.request[0]).replace("pg:main/s/", "") for s in plan.steps] == [
        "old -> new",
        "new/column/was -> new/column/is",
    ]
    ledger = set(owned)
    for step in plan.steps:
        ledger = (ledger - set(step.gone)) | set(step.made)
    assert ledger == {str(r.address) for r in wanted}
    assert (plan.adopt, plan.drift[0].change) == ((), "changed")


def test_what_migrations_own_is_reported_and_never_planned() -> None:
    schema = Address.root("pg", "main", "schema", "s", bare=True)
    ours = Record(schema, {"managed": "migrations"})
    wanted = [ours, thing("new")._replace(parent=schema), thing("other", v=1)._replace(parent=schema)]
    live = [ours, thing("other", v=2)._replace(parent=schema), thing("gone")._replace(parent=schema)]
    kinds: Any = {"schema": Thing(), **KINDS}
    seen = Seen(Plane(live), {str(r.address) for r in live}, FACTS)
    plan = assemble(Plane(wanted), seen, kinds, CLOCK)
    assert plan.is_empty
    found = {d.object: d.change for d in plan.drift}
    assert found == {"pg:main/s/new": "missing", "pg:main/s/other": "changed", "pg:main/s/gone": "undeclared"}


def test_only_narrows_to_an_address_and_what_it_needs() -> None:
    wanted = [thing("base"), thing("top", "base"), thing("aside")]
    assert ids(plan_of(wanted, [], only=("pg:main/s/top",))) == ["base#create", "top#create"]
    with pytest.raises(ScopeError, match="no object pg:main/s/nope"):
        plan_of(wanted, [], only=("pg:main/s/nope",))


def test_a_cycle_names_its_members() -> None:
    a, b = at("a"), at("b")
    works = [
        Work(Draft(a, "create", Sql(""), "", makes=(a,), needs=(b,)), (a,), ()),
        Work(Draft(b, "create", Sql(""), "", makes=(b,), needs=(a,)), (b,), ()),
    ]
    with pytest.raises(CycleError, match=r"s/a#create.*s/b#create|s/b#create.*s/a#create"):
        order(works)


def test_a_change_that_no_kind_absorbs_is_our_defect() -> None:
    class Forgetful(Thing):
        def lower(self, change: Change, context: Context) -> Lowered:
            return Lowered((), ())

    with pytest.raises(LoweringError, match="not absorbed: pg:main/s/a"):
        assemble(Plane([thing("a")]), Seen(Plane([]), set(), FACTS), {"table": Forgetful()}, CLOCK)


@given(planes, names)
def test_the_fingerprint_sees_touched_objects_and_no_others(settings: dict[str, Any], name: str) -> None:
    records = [thing(n, **s) for n, s in settings.items()]
    print_of = fingerprint([str(at(name))], Plane(records))
    others = [r for r in records if r.address != at(name)]
    assert (fingerprint([str(at(name))], Plane(others)) == print_of) == (name not in settings)


@given(st.text(min_size=1).filter(lambda s: "\x00" not in s), st.sampled_from(["column", "index", "table"]))
def test_an_address_keeps_any_name_and_two_names_never_share_a_text(name: str, kind: str) -> None:
    schema = Address.root("pg", "main", "schema", "s", bare=True)
    child = schema.child(kind, name, bare=kind == "table")
    assert child.name == name
    assert (str(child) == str(schema.child(kind, name + "x", bare=kind == "table"))) is False


@pytest.mark.parametrize("module", ["diff", "closure", "order", "scope", "fingerprint", "consents", "assemble"])
def test_the_core_never_asks_which_kind_it_holds(module: str) -> None:
    tree = ast.parse((CORE / f"{module}.py").read_text())
    words = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not words & KIND_WORDS


def test_what_is_only_adopted_is_part_of_the_fingerprint() -> None:
    plan = plan_of([thing("same", v=1)], [thing("same", v=1)], owned=set())
    assert fingerprint(plan.touched, Plane([thing("same", v=2)])) != plan.fingerprint


def test_what_is_renamed_is_watched_under_its_present_name() -> None:
    class Renaming(Thing):
        def lower(self, change: Change, context: Context) -> Lowered:
            return Lowered((Draft(change.address, "rename", Sql(""), "rename"),), (change.address,))

    wanted = [thing("new", v=1)._replace(renamed_from=at("old"))]
    seen = Seen(Plane([thing("old", v=1)]), set(), FACTS)
    plan = assemble(Plane(wanted), seen, {"table": Renaming()}, CLOCK)
    assert fingerprint(plan.touched, Plane([thing("old", v=2)])) != plan.fingerprint
    assert plan.steps[0].adopted == (str(at("new")),)


def test_names_are_handed_on_in_a_chain_and_a_declared_name_gives_nothing_away() -> None:
    live = Plane([thing("a", v=1), thing("b", v=2)])
    chain = Plane([thing("b")._replace(renamed_from=at("a")), thing("c")._replace(renamed_from=at("b"))])
    moved = move_renamed(chain, live)
    assert {r.address.name: r.settings["v"] for r in moved.plane} == {"b": 1, "c": 2}
    kept = Plane([thing("a"), thing("d")._replace(renamed_from=at("a"))])
    assert move_renamed(kept, live).origin == {}


def test_the_last_of_several_steps_keeps_the_origin_that_the_first_asks_a_consent_for() -> None:
    plan = plan_of([thing("x", hard=1)], [thing("x", hard=0)], owned=set())
    assert [(s.action, [h.kind for h in s.hazards], s.adopted) for s in plan.steps] == [
        ("drop", ["adopt"], ()),
        ("create", [], (str(at("x")),)),
    ]


def test_the_ledger_forgets_what_is_gone_but_not_what_nobody_looked_at() -> None:
    owned = {str(at("gone")), str(at("wanted")), "nats:other/stream/S"}
    plan = plan_of([thing("wanted")], [], owned=owned)
    assert plan.forget == (str(at("gone")),)
    assert [(d.object, d.change) for d in plan.drift] == [
        (str(at("wanted")), "missing"),
        ("nats:other/stream/S", "unseen"),
    ]


def test_what_bears_the_mark_of_another_plane_is_no_longer_ours() -> None:
    seen = Seen(Plane([thing("x")]), {str(at("x"))}, FACTS, foreign={str(at("x"))})
    plan = assemble(Plane([]), seen, KINDS, CLOCK)
    assert (plan.steps, plan.forget) == ((), (str(at("x")),))


def test_a_plan_file_that_was_edited_is_refused() -> None:
    plan = plan_of([], [thing("x")])
    saved = json.loads(dumps(plan, required(plan)))
    assert from_json(saved) == plan
    saved["steps"][0]["hazards"] = []
    with pytest.raises(PlanFileError, match="changed after it was made"):
        from_json(saved)
