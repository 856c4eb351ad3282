INSERT INTO app.item SELECT n, n, now() FROM generate_series(1, 3) n;
