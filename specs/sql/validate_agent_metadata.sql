DECLARE
  -- year, month, day of an ISO 8601 time without or with its offset
  parts text[];
BEGIN
  IF jsonb_typeof(metadata) IS DISTINCT FROM 'object' OR NOT metadata ? 'version' THEN
    RETURN false;
  END IF;
  parts := regexp_match(
    metadata ->> 'created_at',
    '^(?!0000)(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:Z|[+-]\d{2}:?\d{2})?$');
  IF parts IS NULL THEN
    RETURN false;
  END IF;
  RETURN parts[3]::integer <= extract(day FROM
    make_date(parts[1]::integer, parts[2]::integer, 1) + interval '1 month' - interval '1 day');
END;
