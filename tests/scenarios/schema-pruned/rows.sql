INSERT INTO app.item VALUES (1);
CREATE TABLE app.stray (id bigint PRIMARY KEY, item_id bigint REFERENCES app.item);
INSERT INTO app.stray VALUES (1, 1), (2, 1);
CREATE VIEW app.strays AS SELECT id FROM app.stray;
CREATE TYPE app.stray_mood AS ENUM ('a');
ALTER TABLE app.item ADD COLUMN extra text;
UPDATE app.item SET extra = 'x';
