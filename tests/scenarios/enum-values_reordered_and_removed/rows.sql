INSERT INTO app.item (id, moods) SELECT n, '{busy,calm}' FROM generate_series(1, 3) n;
