// A stream and a database on the servers that the stack's configuration names.
import * as pulumi from "@pulumi/pulumi";
import * as holdfast from "./sdk";

const config = new pulumi.Config();
const provider = new holdfast.Provider("plane", {
    plane: "typed",
    env: "dev",
    targets: config.requireObject("targets"),
});
const events = new holdfast.Stream("events", {
    name: "EVENTS",
    subjects: ["events.>"],
    max_age: config.get("age") ?? "1h",
    max_bytes: "1MiB",
}, { provider });
const database = new holdfast.PostgresDatabase("main", {
    schemas: {
        app: {
            tables: {
                item: {
                    columns: {
                        id: { type: "bigint", nullable: false },
                        name: { type: "varchar(50)", comment: events.address },
                    },
                    primary_key: ["id"],
                    indexes: { item_name: ["name"] },
                },
            },
        },
    },
}, { provider });

export const stream = events.address;
export const tables = database.address;
