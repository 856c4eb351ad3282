INSERT INTO app.owner VALUES (1), (2);
INSERT INTO app.item SELECT n, 1 + n % 2 FROM generate_series(1, 9) n;
