BEGIN
  RAISE EXCEPTION '%.% keeps its rows as they are: it is the record of what happened', TG_TABLE_SCHEMA, TG_TABLE_NAME
    USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Add a row that says what is so now.';
END;
