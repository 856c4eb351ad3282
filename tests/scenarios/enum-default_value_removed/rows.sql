INSERT INTO app.item SELECT n, 'busy' FROM generate_series(1, 3) n;
