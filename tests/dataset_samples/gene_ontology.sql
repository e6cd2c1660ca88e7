CREATE TABLE go_term (_id INTEGER PRIMARY KEY, go_id TEXT, term TEXT, ontology TEXT, definition TEXT);
CREATE TABLE go_synonym (_id INTEGER, synonym TEXT, secondary TEXT, like_go_id INTEGER);
CREATE TABLE go_bp_parents (_id INTEGER, _parent_id INTEGER, relationship_type TEXT);
CREATE TABLE go_mf_parents (_id INTEGER, _parent_id INTEGER, relationship_type TEXT);
CREATE TABLE go_cc_parents (_id INTEGER, _parent_id INTEGER, relationship_type TEXT);
INSERT INTO go_term VALUES
  (1, 'all', 'all', 'universal', NULL),
  (2, 'GO:0000001', 'bead threading', 'BP', 'Any process by which a bead  gets onto a thread.'),
  (3, 'GO:0000002', 'positive regulation of bead threading', 'BP', NULL),
  (4, 'GO:0000003', 'bead, 2-holed', 'CC', 'A bead with two holes.'),
  (5, 'GO:0000004', 'Bead threading', 'MF', 'Catalysis of threading.');
INSERT INTO go_synonym VALUES
  (2, 'stringing', NULL, 0), (2, 'GO:0000009', 'GO:0000009', 1), (2, 'bead stringing', NULL, 0),
  (3, 'a', NULL, 0), (3, 'b', NULL, 0), (3, 'c', NULL, 0), (3, 'd', NULL, 0), (3, 'e', NULL, 0), (3, 'f', NULL, 0);
INSERT INTO go_bp_parents VALUES
  (2, 1, 'isa'), (3, 2, 'positively regulates'), (3, 2, 'regulates'), (2, 4, 'part of'), (2, 4, 'unknown');
