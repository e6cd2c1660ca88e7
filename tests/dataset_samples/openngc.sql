CREATE TABLE objTypes (type TEXT PRIMARY KEY, typedesc TEXT NOT NULL);
CREATE TABLE objects (
  id INTEGER PRIMARY KEY, name TEXT, type TEXT, ra REAL, dec REAL, const TEXT, majax REAL, minax REAL, pa INTEGER,
  bmag REAL, vmag REAL, jmag REAL, hmag REAL, kmag REAL, sbrightn REAL, hubble TEXT, parallax REAL, pmra REAL,
  pmdec REAL, radvel INTEGER, redshift REAL, cstarumag REAL, cstarbmag REAL, cstarvmag REAL, messier TEXT, ngc TEXT,
  ic TEXT, cstarnames TEXT, identifiers TEXT, commonnames TEXT, nednotes TEXT, ongcnotes TEXT, notngc BOOL);
INSERT INTO objTypes VALUES ('G', 'Galaxy'), ('HII', 'HII Ionized region'), ('Dup', 'Duplicated record');
INSERT INTO objects (id, name, type, ra, dec, const, majax, pa, radvel, redshift, messier, ngc, identifiers,
                     commonnames, nednotes) VALUES
  (1, 'NGC0007', 'G', 1.0, -0.5, 'Se1', 0.9, 0, -300, 0.0, '031', '', 'PGC 000012,UGC 00034,IRAS 1,IRAS 2,XYZ 5',
   'Bead Galaxy,Round Galaxy', 'Near NGC0008, 1,500 arcsec away.'),
  (2, 'IC0011', 'Dup', 1.0, -0.5, 'Se1', NULL, NULL, NULL, NULL, '', '0007', '', '', ''),
  (3, 'IC0348 NED02', 'HII', NULL, NULL, '', NULL, NULL, NULL, NULL, '', '', '', '', '');
