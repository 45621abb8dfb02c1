-- An identity is never used twice, so an old copy never matches a new page.
CREATE TABLE pages (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug         text NOT NULL UNIQUE,
    title        text NOT NULL,
    tags         text NOT NULL,
    body         text NOT NULL,
    lock_version bigint NOT NULL
);

-- What every save has left. Deleted pages keep theirs, so that an editor of one can be told what happened.
CREATE TABLE revisions (
    page_id  bigint NOT NULL,
    version  bigint NOT NULL,
    slug     text NOT NULL,
    title    text NOT NULL,
    tags     text NOT NULL,
    body     text NOT NULL,
    author   text NOT NULL,
    saved_at timestamptz NOT NULL,
    PRIMARY KEY (page_id, version)
);

CREATE TABLE tags (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);

CREATE TABLE page_tags (
    page_id bigint NOT NULL REFERENCES pages ON DELETE CASCADE,
    tag_id  bigint NOT NULL REFERENCES tags,
    PRIMARY KEY (page_id, tag_id)
);

CREATE TABLE watchers (
    page_id bigint NOT NULL REFERENCES pages ON DELETE CASCADE,
    name    text NOT NULL,
    PRIMARY KEY (page_id, name)
);

CREATE TABLE page_views (page_id bigint PRIMARY KEY, views bigint NOT NULL);

CREATE TABLE quotas (
    author text NOT NULL,
    hour   text NOT NULL,
    edits  bigint NOT NULL CHECK (edits BETWEEN 0 AND 100),
    PRIMARY KEY (author, hour)
);

CREATE TABLE notices (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    watcher      text NOT NULL,
    slug         text NOT NULL,
    version      bigint NOT NULL,
    text         text NOT NULL,
    run_at       timestamptz NOT NULL,
    state        text NOT NULL CHECK (state IN ('ready', 'running', 'done', 'dead')),
    attempts     integer NOT NULL,
    fence        bigint NOT NULL,
    leased_until timestamptz,
    last_error   text
);

-- Where notices arrive. A mail server would be the same, without the table.
CREATE TABLE inbox (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    watcher text NOT NULL,
    slug    text NOT NULL,
    version bigint NOT NULL,
    text    text NOT NULL
);

CREATE TABLE create_requests (
    author       text NOT NULL,
    key          text NOT NULL,
    fingerprint  bytea NOT NULL,
    outcome      jsonb,
    fence        bigint NOT NULL,
    leased_until timestamptz NOT NULL,
    finished_at  timestamptz,
    PRIMARY KEY (author, key)
);

CREATE TABLE reports (day text NOT NULL, slug text NOT NULL, edits bigint NOT NULL, PRIMARY KEY (day, slug));

-- A new wiki has one page.
INSERT INTO pages (slug, title, tags, body, lock_version)
    VALUES ('welcome', 'Welcome', 'help', 'Open this page in two windows, edit it in both, and save both.', 0);
INSERT INTO revisions SELECT id, 0, slug, title, tags, body, 'wiki', CURRENT_TIMESTAMP FROM pages;
INSERT INTO tags (name) VALUES ('help');
INSERT INTO page_tags SELECT pages.id, tags.id FROM pages, tags;
