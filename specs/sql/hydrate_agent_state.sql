SELECT s.state_key, s.state_value, s.version, s.checksum, s.kv_incarnation, s.kv_revision, s.expires_at
  FROM agents.state AS s
 WHERE s.agent_id = p_agent_id
   AND s.deleted_at IS NULL
   AND (s.expires_at IS NULL OR s.expires_at > now())
 ORDER BY s.updated_at DESC, s.state_key
