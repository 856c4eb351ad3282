INSERT INTO app.item VALUES (1), (2);
