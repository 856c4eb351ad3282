SELECT n.nspname AS schema_name,
       p.relname AS table_name,
       count(c.oid) AS partitions,
       count(*) FILTER (WHERE pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT') > 0 AS has_default,
       max(substring(pg_get_expr(c.relpartbound, c.oid) FROM $$TO \('([^']+)'\)$$)::timestamp with time zone)
         AS covered_until
  FROM pg_partitioned_table AS t
  JOIN pg_class AS p ON p.oid = t.partrelid
  JOIN pg_namespace AS n ON n.oid = p.relnamespace
  JOIN pg_attribute AS k ON k.attrelid = p.oid AND k.attnum = t.partattrs[0]
  LEFT JOIN pg_inherits AS i ON i.inhparent = p.oid
  LEFT JOIN pg_class AS c ON c.oid = i.inhrelid
 WHERE t.partstrat = 'r'
   AND t.partnatts = 1
   AND k.atttypid = 'timestamp with time zone'::regtype
 GROUP BY n.nspname, p.relname
