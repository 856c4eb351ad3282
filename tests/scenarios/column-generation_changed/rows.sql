INSERT INTO app.item (id, price, plain) SELECT n, n, n FROM generate_series(1, 3) n;
