INSERT INTO app.owner VALUES (1), (2);
INSERT INTO app.item VALUES (1, 1, 'a'), (2, 2, 'b');
