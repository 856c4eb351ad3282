"""What pages may say: nothing that ages as a claim, nothing of this machine, and links that lead somewhere."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_HIDDEN = {".git", ".venv", ".holdfast", "build", "dist", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
#: Grades and promises; what a product can do is shown by commands that run.
CLAIMS = re.compile(
    r"\b\d+\s*/\s*(?:5|10|15|20|100)\b(?! \*)|\b\d+(?:\.\d+)?\s*%\s*(?:complete|coverage|ready|tested)"
    r"|\b(?:production|enterprise)[- ](?:ready|grade)|\breadiness\b"
    r"|\bbattle[- ]tested|\bworld[- ]class|\bbest[- ]in[- ]class"
    r"|\bscores?\b|\bexcellent\b|\bblazing|\bfully (?:ready|compliant|tested)|\b\d+ sections\b|[✅🚀⭐]",
    re.IGNORECASE,
)
#: Folders of one machine, and the addresses of registries, which belong in nobody's repository.
STRANGE = re.compile(
    r"/work/|/root/|/home/[a-z]|/Users/|https?://[^\s)\"']*(?:pypi\.|pythonhosted|npmjs|/simple\b|artifactory|nexus)"
    r"|--(?:extra-)?index-url[ =]\S",
    re.IGNORECASE,
)


def pages() -> list[Path]:
    found = (p for p in ROOT.rglob("*.md") if not _HIDDEN & set(p.relative_to(ROOT).parts))
    return sorted(p for p in found if ".egg-info" not in str(p))


def texts() -> list[Path]:
    kinds = {".md", ".py", ".toml", ".yaml", ".yml", ".json", ".sql", ".lock", ".txt", ".cfg", ""}
    found = (p for p in ROOT.rglob("*") if p.suffix in kinds and not _HIDDEN & set(p.relative_to(ROOT).parts))
    return sorted(p for p in found if p.is_file() and "__pycache__" not in p.parts and ".egg-info" not in str(p))


@pytest.mark.req("J2.1", "J2.2")
@pytest.mark.parametrize("text", ["Score: 15/15", "production-ready", "12 sections", "95 % complete", "✅ done"])
def test_a_grade_or_a_promise_would_be_found(text: str) -> None:
    assert CLAIMS.search(text)


@pytest.mark.req("J2.1", "J2.2")
def test_no_page_grades_or_promises() -> None:
    assert len(pages()) > 30
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p in pages() for m in CLAIMS.finditer(p.read_text())]
    assert found == []


def test_no_file_names_a_folder_of_this_machine_or_a_registry() -> None:
    own = Path(__file__).resolve()
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in texts()
        if path.resolve() != own
        for match in STRANGE.finditer(path.read_text(errors="replace"))
    ]
    assert found == []


@pytest.mark.req("J2.1")
def test_every_link_of_a_page_leads_somewhere() -> None:
    broken = []
    for page in pages():
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)", page.read_text()):
            path = (page.parent / target).resolve() if target else page
            if not path.exists() or (anchor and path.suffix == ".md" and anchor[1:] not in _anchors(path)):
                broken.append(f"{page.relative_to(ROOT)}: {target}{anchor}")
    assert broken == []


def _anchors(page: Path) -> set[str]:
    """The names that a renderer gives to headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _families(error: type[Exception]) -> list[type[Exception]]:
    return [error, *(found for child in error.__subclasses__() for found in _families(child))]


@pytest.mark.req("J2.1")
def test_every_type_of_error_says_what_it_is() -> None:
    from provision.spec.errors import HoldfastError

    for module in ("embedded.process", "nats.errors", "postgres.errors", "reconcile.gates"):
        import_module(f"provision.{module}")
    ours = [e for e in _families(HoldfastError) if e.__module__.startswith("provision.")]
    assert len(ours) > 8
    for error in ours:
        said = error.__dict__.get("__doc__")
        assert said, error
        assert said.strip().splitlines()[0].endswith("."), error
