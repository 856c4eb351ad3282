INSERT INTO app.owner VALUES (1), (2);
INSERT INTO app.item (owner_id) VALUES (1), (2), (1);
