INSERT INTO app.item SELECT n, 'all' FROM generate_series(1, 3) n;
