INSERT INTO app.item VALUES (1, 'a', 'x'), (2, NULL, 'y'), (3, 'c', 'z');
