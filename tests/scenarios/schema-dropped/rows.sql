INSERT INTO app.item (mood) VALUES ('calm'), ('busy');
INSERT INTO kept.item VALUES (1, 'calm');
