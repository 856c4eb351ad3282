"""The diagnostics of reading a folder of migrations: what each means, a bad and a good example. Pure."""

from __future__ import annotations

from textwrap import dedent

from provision.spec.codes import Page


def _page(title: str, explanation: str, bad: str, good: str) -> Page:
    return Page(title, " ".join(explanation.split()), dedent(bad).lstrip("\n"), dedent(good).lstrip("\n"))


#: What `allow` may name: the codes of lint, each of which is a rule (``lint.registry.RULES``).
LINTED = tuple(f"HF{number:04}" for number in range(820, 872))
#: An example is one or several files; ``== NAME`` begins the next.
CODES: dict[str, Page] = {
    "HF0803": _page(
        "A file that is no migration",
        """Each `.sql` file of the folder is one half of a migration: four digits, at least two words in lower case,
        then `.up.sql` or `.down.sql`, in UTF-8 without a byte order mark. A file with another name, `.SQL` among them,
        would silently never run.""",
        """
        == 2_priority.sql
        -- version: 1.0.0
        SELECT 1;
        """,
        """
        == 0001_add_priority.up.sql
        -- version: 1.0.0
        SELECT 1;
        """,
    ),
    "HF0804": _page(
        "A directive that cannot be understood",
        """The comment lines before the first statement say what a migration is: `-- version: 1.2.0` (always),
        `description`, `kind` (schema, data, index, partition or function), `depends-on` (versions), `covered-by:
        specs` (a plane that `holdfast apply` made from the specs does not need this file), `transaction: none`,
        `lock-timeout` (3s unless said), `statement-timeout` (none unless said), any number of `assert-before NAME:
        SQL` and `assert-after NAME: SQL`, each a query on one line that gives one boolean, and any number of `allow
        HF0829: REASON`: lint says nothing of that code in this file. A down file says its own `allow`, time-outs and
        assertions. A directive is in lower case and begins its line. Other comments are for people; one that looks
        like a directive and is none, or stands below a statement, is refused, because it would have no effect.""",
        """
        == 0001_add_priority.up.sql
        -- version: 1.0.0
        -- transacton: none
        SELECT 1;
        """,
        """
        == 0001_add_priority.up.sql
        -- version: 1.0.0
        -- transaction: none
        SELECT 1;
        """,
    ),
    "HF0805": _page(
        "Numbers or versions out of order",
        """Files run in the order of their numbers, which begin at 0001 and have no gap: a gap is a file that was lost
        or that another branch holds. Versions rise with the numbers and compare as numbers, so 1.9.0 comes before
        1.10.0.""",
        """
        == 0001_create_task.up.sql
        -- version: 1.10.0
        SELECT 1;
        == 0002_add_priority.up.sql
        -- version: 1.9.0
        SELECT 1;
        """,
        """
        == 0001_create_task.up.sql
        -- version: 1.9.0
        SELECT 1;
        == 0002_add_priority.up.sql
        -- version: 1.10.0
        SELECT 1;
        """,
    ),
    "HF0806": _page(
        "A dependency that does not come before",
        """`depends-on` names versions that must be in effect first. They have to be versions of earlier files of the
        same folder.""",
        """
        == 0001_create_task.up.sql
        -- version: 1.0.0
        -- depends-on: 7.0.0
        SELECT 1;
        """,
        """
        == 0001_create_task.up.sql
        -- version: 1.0.0
        SELECT 1;
        == 0002_add_priority.up.sql
        -- version: 1.1.0
        -- depends-on: 1.0.0
        SELECT 1;
        """,
    ),
    "HF0807": _page(
        "A way back that belongs to nothing",
        """A `.down.sql` file undoes the `.up.sql` file of the same number and name, and says the same version. A
        migration without a way back has no down file.""",
        """
        == 0001_create_task.up.sql
        -- version: 1.0.0
        SELECT 1;
        == 0001_create_task.down.sql
        -- version: 1.0.1
        SELECT 1;
        """,
        """
        == 0001_create_task.up.sql
        -- version: 1.0.0
        SELECT 1;
        == 0001_create_task.down.sql
        -- version: 1.0.0
        SELECT 1;
        """,
    ),
    "HF0808": _page(
        "Only psql understands this",
        r"""The runner sends statements to the server. Backslash commands are psql's own, and COPY FROM STDIN needs
        data that psql takes from the lines after it.""",
        r"""
        == 0001_fill_task.up.sql
        -- version: 1.0.0
        \copy agents.task FROM 'rows.csv'
        """,
        """
        == 0001_fill_task.up.sql
        -- version: 1.0.0
        INSERT INTO agents.task (id) VALUES (1), (2);
        """,
    ),
    "HF0809": _page(
        "The runner's own work",
        """The runner begins and ends transactions, so that a file and the note that it ran are one; and it keeps its
        lock in the session, which DISCARD would empty. In a file without a transaction each statement stands by
        itself, so SET, SAVEPOINT, LOCK or DECLARE would have no effect on the next one.""",
        """
        == 0001_fill_task.up.sql
        -- version: 1.0.0
        BEGIN;
        UPDATE agents.task SET priority = 5;
        COMMIT;
        """,
        """
        == 0001_fill_task.up.sql
        -- version: 1.0.0
        UPDATE agents.task SET priority = 5;
        """,
    ),
    "HF0810": _page(
        "This needs a file without a transaction",
        """The server refuses this statement inside a transaction, and a file is one unless it says otherwise. With
        `transaction: none` each statement stands by itself, and a run that breaks off is resumed.""",
        """
        == 0001_index_task.up.sql
        -- version: 1.0.0
        CREATE INDEX CONCURRENTLY task_owner ON agents.task (owner);
        """,
        """
        == 0001_index_task.up.sql
        -- version: 1.0.0
        -- transaction: none
        CREATE INDEX CONCURRENTLY task_owner ON agents.task (owner);
        """,
    ),
    "HF0811": _page(
        "Something is never closed",
        """A string, a quoted name, a dollar-quoted body or a comment runs to the end of the file, and every statement
        after its beginning with it.""",
        """
        == 0001_fill_task.up.sql
        -- version: 1.0.0
        UPDATE agents.task SET note = 'open;
        """,
        """
        == 0001_fill_task.up.sql
        -- version: 1.0.0
        UPDATE agents.task SET note = 'open';
        """,
    ),
    "HF0812": _page(
        "A concurrent index without a name",
        """A concurrent build that breaks off leaves an invalid index. The runner finds it by its name, drops it and
        builds it again; a name that the server would choose cannot be known before.""",
        """
        == 0001_index_task.up.sql
        -- version: 1.0.0
        -- transaction: none
        CREATE INDEX CONCURRENTLY ON agents.task (owner);
        """,
        """
        == 0001_index_task.up.sql
        -- version: 1.0.0
        -- transaction: none
        CREATE INDEX CONCURRENTLY task_owner ON agents.task (owner);
        """,
    ),
    "HF0813": _page(
        "A file without a statement",
        """The file holds nothing to run. Write its statements; where there is no way back, delete the down file.""",
        """
        == 0001_create_task.up.sql
        -- version: 1.0.0
        -- CREATE TABLE agents.task (id bigint);
        """,
        """
        == 0001_create_task.up.sql
        -- version: 1.0.0
        CREATE TABLE agents.task (id bigint);
        """,
    ),
}


def pages() -> dict[str, str]:
    """Every page by code, as Markdown."""
    return {
        code: f"# {code}: {page.title}\n\n{page.explanation}\n\nBad:\n\n```sql\n{_shown(page.bad)}```\n\n"
        f"Good:\n\n```sql\n{_shown(page.good)}```\n"
        for code, page in CODES.items()
    }


def files(example: str) -> dict[str, str]:
    """The files of an example by name."""
    parts = example.split("== ")[1:]
    return {name: text for name, _, text in (part.partition("\n") for part in parts)}


def _shown(example: str) -> str:
    return "".join(f"-- {name}\n{text}" for name, text in files(example).items())
