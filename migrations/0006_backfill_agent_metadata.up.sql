-- version: 1.5.0
-- description: Give every agent metadata that agents.validate_agent_metadata accepts; whatever else it holds is kept
-- kind: data
-- covered-by: specs
-- transaction: none
-- allow HF0863: what metadata held before is kept beside the new keys, and nothing else can be told from it
-- allow HF0825: run again, it finds what is left to fill
-- assert-after all_are_valid: SELECT NOT EXISTS (SELECT 1 FROM agents.registry WHERE agents.validate_agent_metadata(metadata) IS NOT TRUE)

-- A thousand agents at a time: no lock is held for long, and what is done stays done.
DO $do$
BEGIN
  LOOP
    UPDATE agents.registry r
       SET metadata = CASE WHEN jsonb_typeof(r.metadata) = 'object' THEN r.metadata
                           WHEN r.metadata IS NULL THEN '{}' ELSE jsonb_build_object('former', r.metadata) END
                      || jsonb_build_object('created_at', to_char(coalesce(r.created_at, now()) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                                            'version', '1.0.0')
     WHERE r.agent_id IN (SELECT b.agent_id FROM agents.registry b
                           WHERE agents.validate_agent_metadata(b.metadata) IS NOT TRUE LIMIT 1000 FOR UPDATE);
    EXIT WHEN NOT FOUND;
    COMMIT;
  END LOOP;
END
$do$;
