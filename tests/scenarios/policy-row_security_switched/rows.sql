INSERT INTO app.closing VALUES (1, 'a'), (2, 'b');
