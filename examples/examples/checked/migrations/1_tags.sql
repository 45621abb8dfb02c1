CREATE TABLE tags (
    id integer PRIMARY KEY,
    tenant_id bigint NOT NULL,
    slug text NOT NULL,
    deleted_at timestamp
);
CREATE UNIQUE INDEX tags_live ON tags (tenant_id, slug) WHERE deleted_at IS NULL;
