INSERT INTO app.item SELECT generate_series(1, 9);
