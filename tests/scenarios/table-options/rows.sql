INSERT INTO app.item VALUES (1), (2);
INSERT INTO app.split SELECT generate_series(1, 9);
INSERT INTO app.written VALUES (1);
