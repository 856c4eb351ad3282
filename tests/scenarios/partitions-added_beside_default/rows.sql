INSERT INTO app.item VALUES (1, 'de'), (2, 'br');
