INSERT INTO app.owner VALUES (1, 'eu'), (2, 'us');
INSERT INTO app.item VALUES (1, 1), (2, 2);
