// For mongosh on the first member, over its loopback. The first time it makes the replica set and its two users; later
// it finds them and changes nothing. It can be interrupted anywhere and run again.
const admin = db.getSiblingDB('admin');
const root = { user: 'admin', pwd: process.env.MONGODB_ADMIN_PASSWORD };
const server = { user: 'clickstream', pwd: process.env.MONGODB_PASSWORD };
const ALREADY_INITIALIZED = 23;
function untilPrimary() {
  while (!db.hello().isWritablePrimary) sleep(200);
}

function knowsUs() {
  try {
    return admin.auth(root.user, root.pwd).ok === 1;
  } catch (error) {
    return false;
  }
}

if (!knowsUs()) {
  // Until there is a user, MongoDB lets whoever comes over loopback do this.
  const members = ['mongo-1', 'mongo-2', 'mongo-3'].map((name, place) => ({
    _id: place,
    host: `${name}:27017`,
    priority: place === 0 ? 2 : 1,  // the users can be made here only, so this one is to be the primary
  }));
  try {
    rs.initiate({ _id: 'clickstream', members });
  } catch (error) {
    if (error.code !== ALREADY_INITIALIZED) throw error;
  }
  untilPrimary();
  admin.createUser({ ...root, roles: ['root'] });
  admin.auth(root.user, root.pwd);
}
if (!admin.getUser(server.user)) {
  untilPrimary();
  admin.createUser({ ...server, roles: [{ role: 'readWrite', db: 'clickstream' }] });
}
print('the replica set is ready');
