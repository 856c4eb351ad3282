INSERT INTO app.owner VALUES (1, 'a');
INSERT INTO app.item VALUES (1, 'a', 1);
