INSERT INTO app.item (id, price) SELECT n, n FROM generate_series(1, 3) n;
