INSERT INTO app.item (body) VALUES ('a'), ('b');
