INSERT INTO app.item SELECT n, n FROM generate_series(1, 3) n;
