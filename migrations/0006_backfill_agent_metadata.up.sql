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
    WITH wanting AS (
      SELECT agent_id,
             jsonb_build_object('version', '1.0.0', 'created_at',
                                to_char(coalesce(created_at, now()) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) AS usual,
             CASE WHEN jsonb_typeof(metadata) = 'object' THEN metadata
                  WHEN metadata IS NULL THEN '{}' ELSE jsonb_build_object('former', metadata) END AS held
        FROM agents.registry
       WHERE agents.validate_agent_metadata(metadata) IS NOT TRUE LIMIT 1000 FOR UPDATE)
    UPDATE agents.registry r
       SET metadata = usual || held
                      || CASE WHEN agents.validate_agent_metadata(usual || held) THEN '{}'  -- else its created_at is no time
                              ELSE jsonb_build_object('created_at', usual -> 'created_at', 'former_created_at', held -> 'created_at') END
      FROM wanting w
     WHERE r.agent_id = w.agent_id;
    EXIT WHEN NOT FOUND;
    COMMIT;
  END LOOP;
END
$do$;
