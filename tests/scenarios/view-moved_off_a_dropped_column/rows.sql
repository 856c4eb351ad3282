INSERT INTO app.item VALUES (1, 'a'), (2, 'b');
