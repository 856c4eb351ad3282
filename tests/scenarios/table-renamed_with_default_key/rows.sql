INSERT INTO app.owner VALUES (1), (2);
INSERT INTO app.item VALUES (1, 1), (2, 2);
