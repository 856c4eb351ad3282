WITH sessions AS (
  SELECT count(*)::integer AS total,
         count(*) FILTER (WHERE a.state = 'active')::integer AS active,
         count(*) FILTER (WHERE a.state = 'idle')::integer AS idle,
         count(*) FILTER (WHERE a.state LIKE 'idle in transaction%')::integer AS idle_in_transaction,
         current_setting('max_connections')::integer AS maximum
    FROM pg_stat_activity AS a
   WHERE a.backend_type = 'client backend'
     AND a.pid <> pg_backend_pid()
)
SELECT 'application_pool',
       s.total, s.active, s.idle, s.idle_in_transaction, s.maximum,
       CASE
         WHEN s.total > s.maximum * 0.9 THEN 'critical'
         WHEN s.total > s.maximum * 0.8 THEN 'warning'
         ELSE 'healthy'
       END,
       array_remove(ARRAY[
         CASE WHEN s.total > s.maximum * 0.8 THEN 'Connections approach the maximum of the server' END,
         CASE WHEN s.idle_in_transaction > 5 THEN 'Many connections are idle in a transaction' END,
         CASE WHEN s.active > s.total * 0.7 THEN 'Most connections are active: consider a larger pool' END
       ], NULL)
  FROM sessions AS s
