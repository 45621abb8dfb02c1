CREATE UNIQUE INDEX tags_tenant_id_slug_key ON tags (tenant_id, slug);
