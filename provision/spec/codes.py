"""The diagnostics of the language itself (HF01xx files, HF02xx JSON Schema, HF08xx servers), for ``holdfast explain``.

The rules of ``checks/`` document themselves; these codes have no rule, so their pages stand here.
"""

from __future__ import annotations

from textwrap import dedent
from typing import NamedTuple


class Page(NamedTuple):
    """What ``explain`` prints: the examples are YAML (or a shell line where the mistake is not in a file)."""

    title: str
    explanation: str
    bad: str
    good: str


def _page(title: str, explanation: str, bad: str, good: str) -> Page:
    return Page(title, " ".join(explanation.split()), dedent(bad).strip() + "\n", dedent(good).strip() + "\n")


CODES: dict[str, Page] = {
    "HF0101": _page(
        "The file is not YAML",
        """The YAML parser gave up at this place, so nothing of the file was read; the other files
        were. The usual causes are a wrong indentation, a colon or a quote inside an unquoted
        value, and a bracket left open.""",
        """
        streams:
          TASKS: {subjects: [tasks.>
        """,
        """
        streams:
          TASKS: {subjects: [tasks.>]}
        """,
    ),
    "HF0102": _page(
        "A key is written twice in one mapping",
        """YAML allows a key once. Most parsers silently keep the last one, which hides the
        mistake; both places are shown here.""",
        """
        streams:
          TASKS:
            max_age: 1d
            max_age: 2d
        """,
        """
        streams:
          TASKS:
            max_age: 2d
        """,
    ),
    "HF0103": _page(
        "A name is declared in two files",
        """All files below the specs folder are one document. Files may share a section, and may
        share a schema of Postgres, but each object is declared in one place.""",
        """
        # a.yaml
        streams: {TASKS: {subjects: [tasks.>]}}
        # b.yaml
        streams: {TASKS: {max_age: 1d}}
        """,
        """
        # a.yaml
        streams: {TASKS: {subjects: [tasks.>], max_age: 1d}}
        """,
    ),
    "HF0104": _page(
        "Merge keys are not allowed",
        """The merge key << belongs to YAML 1.1 and was left out of 1.2; parsers disagree on it.
        Anchors and aliases of whole values are allowed.""",
        """
        streams:
          A: &a {max_age: 1d}
          B:
            <<: *a
            subjects: [b.>]
        """,
        """
        streams:
          A: {max_age: 1d}
          B: {max_age: 1d, subjects: [b.>]}
        """,
    ),
    "HF0105": _page(
        "Tags are not allowed",
        """A tag such as !!str or !include asks the parser to do something special. The types of
        values come from the JSON Schema alone; SQL text comes in with file:.""",
        "plane: !!str agents",
        "plane: agents",
    ),
    "HF0106": _page(
        "Templating is not expanded",
        """Specs are data, not templates: {{ }}, {% %} and ${ } are never expanded. What differs
        between environments stands in environments/; secrets are references. Text in quotes is
        taken literally.""",
        """
        streams:
          TASKS: {replicas: {{ replicas }}}
        """,
        """
        streams:
          TASKS: {replicas: 3}
        """,
    ),
    "HF0107": _page(
        "A number with a leading zero",
        """010 is eight to YAML 1.1 and ten to YAML 1.2. To avoid either surprise it is refused; a
        number too long to be read is refused under the same code.""",
        """
        streams:
          TASKS: {max_msgs: 010}
        """,
        """
        streams:
          TASKS: {max_msgs: 10}
        """,
    ),
    "HF0108": _page(
        "Several documents in one file",
        """A line of three dashes starts a second YAML document. One file holds one document; put
        the other one into a file of its own.""",
        """
        plane: agents
        ---
        streams: {}
        """,
        """
        plane: agents
        streams: {}
        """,
    ),
    "HF0109": _page(
        "A key is not text",
        """Keys are names. An unquoted 1, true or null is a number, a truth value or nothing, and
        cannot be one.""",
        """
        buckets:
          1: {ttl: 1h}
        """,
        """
        buckets:
          "1": {ttl: 1h}
        """,
    ),
    "HF0110": _page(
        "A tab in the indentation",
        """YAML is indented with spaces; a tab has no defined width.""",
        "streams:\n\tTASKS: {}\n",
        """
        streams:
          TASKS: {}
        """,
    ),
    "HF0111": _page(
        "An alias that cannot be followed",
        """An alias (*name) repeats the value that an anchor (&name) marked earlier in the same
        file. It cannot stand before its anchor or inside it, and aliases may not make a file grow
        beyond a million values.""",
        """
        streams:
          B: *common
          A: &common {max_age: 1d}
        """,
        """
        streams:
          A: &common {max_age: 1d}
          B: *common
        """,
    ),
    "HF0112": _page(
        "The file cannot be read",
        """The file is not UTF-8 text, or the operating system refuses to open it.""",
        "# saved as UTF-16 or Latin-1",
        "# saved as UTF-8",
    ),
    "HF0113": _page(
        "The file is not a mapping",
        """A spec file is a mapping of sections, such as streams: or schemas:.""",
        """
        - TASKS
        - AGENT_STATE
        """,
        """
        streams:
          TASKS: {subjects: [tasks.>]}
        """,
    ),
    "HF0114": _page(
        "Nested too deeply",
        """No real document comes near a hundred levels; the limit keeps a broken or hostile file
        from exhausting the stack.""",
        "a: [[[[ … a hundred more … ]]]]",
        "a: []",
    ),
    "HF0120": _page(
        "No specs",
        """The folder given with --specs (default specs/) does not exist or holds no *.yaml file.""",
        "holdfast check --specs sepcs",
        "holdfast check --specs specs",
    ),
    "HF0121": _page(
        "No such environment",
        """An environment NAME is the file environments/NAME.yaml inside the specs folder.""",
        "holdfast plan --env prod",
        "holdfast plan --env production",
    ),
    "HF0122": _page(
        "An override of something undeclared",
        """An environment changes options of objects that the specs declare; it never adds
        objects, so that a typing error cannot create one. Sections, streams, tables, columns and
        so on must exist outside environments/.""",
        """
        override:
          streams: {TASK_EXECUTON: {replicas: 1}}
        """,
        """
        override:
          streams: {TASK_EXECUTION: {replicas: 1}}
        """,
    ),
    "HF0130": _page(
        "A body file is missing",
        """{file: path} stands for the text of a file. The path starts at the folder of the file
        that declares it.""",
        "body: {file: sql/clean_up.sql}   # there is no such file",
        "body: {file: ../sql/clean_up.sql}",
    ),
    "HF0131": _page(
        "A secret is not set",
        """A reference {env: NAME} or {file: path} leads to nothing. Values are read only when a
        server is contacted; they are never shown.""",
        "holdfast apply --env production",
        "PRIMARY_DB_PASSWORD=… holdfast apply --env production",
    ),
    "HF0132": _page(
        "A .yml file is not read",
        """Only files that end in .yaml are specs. A file that is left out by its name would be a
        surprise, so it is a warning.""",
        "specs/streams.yml",
        "specs/streams.yaml",
    ),
    "HF0133": _page(
        "A password in plain text",
        """A password inside a connection string would end up in version control, plans and logs.
        Give the whole string as a reference, or the password beside it.""",
        "postgres: {main: {kind: external, dsn: 'postgresql://app:hunter2@db/agents'}}",
        "postgres: {main: {kind: external, dsn: {env: PG_DSN}}}",
    ),
    "HF0201": _page(
        "An unknown key",
        """The option does not exist here. Names follow the server's own, in snake_case; a near
        miss is suggested.""",
        """
        streams:
          TASKS: {max_agee: 1d}
        """,
        """
        streams:
          TASKS: {max_age: 1d}
        """,
    ),
    "HF0202": _page(
        "A value of the wrong type",
        """The option takes another type of value. In YAML 1.2 only true and false are truth
        values: yes, no, on and off are texts.""",
        """
        streams:
          TASKS: {deny_delete: yes}
        """,
        """
        streams:
          TASKS: {deny_delete: true}
        """,
    ),
    "HF0203": _page(
        "A quantity without a proper unit",
        """Durations and sizes carry their unit: 500ms, 30s, 5m, 1h, 30d; 64KiB, 512MiB, 10GiB.
        They are exact integers of nanoseconds and bytes inside. Partition intervals are calendar
        intervals: 1 day, 1 month.""",
        """
        streams:
          TASKS: {max_age: 86400}
        """,
        """
        streams:
          TASKS: {max_age: 1d}
        """,
    ),
    "HF0204": _page(
        "Not one of the allowed values",
        """The option has a closed set of values, listed in the message.""",
        """
        streams:
          TASKS: {retention: limit}
        """,
        """
        streams:
          TASKS: {retention: limits}
        """,
    ),
    "HF0205": _page(
        "A number out of range",
        """The server would refuse this number; the allowed range is in the message.""",
        """
        streams:
          TASKS: {replicas: 7}
        """,
        """
        streams:
          TASKS: {replicas: 3}
        """,
    ),
    "HF0206": _page(
        "A required key is missing",
        """The object cannot be made without this option. The place is the key of the object that
        lacks it.""",
        "schemas: {agents: {tables: {state: {columns: {version: {nullable: false}}}}}}",
        "schemas: {agents: {tables: {state: {columns: {version: {type: bigint, nullable: false}}}}}}",
    ),
    "HF0207": _page(
        "A malformed name or text",
        """The text does not have the form that this option or name needs; the form is in the
        help.""",
        "plane: my plane",
        "plane: my-plane",
    ),
    "HF0208": _page(
        "Too few, too many or repeated",
        """A text is too short or too long, or a list has too few, too many or repeated items.""",
        """
        streams:
          TASKS: {subjects: []}
        """,
        """
        streams:
          TASKS: {subjects: [tasks.>]}
        """,
    ),
    "HF0209": _page(
        "Forms that exclude each other",
        """The value mixes two ways of saying the same thing; keep one.""",
        "password: {env: DB_PASSWORD, file: secrets/db}",
        "password: {env: DB_PASSWORD}",
    ),
    "HF0210": _page(
        "A value its type refuses",
        """The value has the right shape but cannot be read, for instance a duration finer than
        one nanosecond.""",
        """
        streams:
          TASKS: {subjects: [tasks.>], max_age: 0.5ns}
        """,
        """
        streams:
          TASKS: {subjects: [tasks.>], max_age: 1ns}
        """,
    ),
    "HF0211": _page(
        "One object declared twice",
        """Two declarations lead to the same object, for instance two functions whose argument
        types are the same under different names (int and integer).""",
        """
        grants:
          - {on: schema agents, to: app, privileges: [usage]}
          - {on: schema agents, to: app, privileges: [create]}
        """,
        """
        grants:
          - {on: schema agents, to: app, privileges: [usage, create]}
        """,
    ),
    "HF0801": _page(
        "A real server refuses it",
        """check --compile built the schema on a scratch PostgreSQL, in a transaction that was rolled
        back, and the server refused this object. The message holds the server's words and its
        SQLSTATE. Plan and apply stop at the same mistake.""",
        """
        schemas:
          shop:
            tables:
              item:
                columns: {price: {type: numeric, nullable: false}}
                checks: {positive: price > (0}
        """,
        """
        schemas:
          shop:
            tables:
              item:
                columns: {price: {type: numeric, nullable: false}}
                checks: {positive: price > 0}
        """,
    ),
    "HF0802": _page(
        "A real NATS server refuses it",
        """check --compile created the streams, buckets, object stores and consumers on a scratch nats-server, one
        server with room for everything, and it refused this one. The message holds the server's words. Plan cannot
        see this mistake; apply stops at it.""",
        """
        streams:
          COUNTS: {subjects: [counts.*], subject_transform: {src: counts.*, dest: "sums.{{wildcard(3)}}"}}
        """,
        """
        streams:
          COUNTS: {subjects: [counts.*], subject_transform: {src: counts.*, dest: "sums.{{wildcard(1)}}"}}
        """,
    ),
}
