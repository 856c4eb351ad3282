INSERT INTO app.owner VALUES (1);
INSERT INTO app.item VALUES (1, 1);
