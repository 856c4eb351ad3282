INSERT INTO app.owner VALUES (1);
INSERT INTO app.item VALUES (1, 1), (2, 1);
INSERT INTO app.part VALUES (1, NULL);
